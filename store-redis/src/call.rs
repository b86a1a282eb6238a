use redis::{Cmd, ToRedisArgs};

use crate::script::Script;

/// Room for a script's arguments, and for their bytes beside the keys: enough for most calls.
const ARGUMENTS: usize = 16;
const BYTES: usize = 512;

/// One command, and the slot that it goes to.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) slot: u16,
    pub(crate) command: Cmd,
    pub(crate) script: Option<&'static Script>,
    /// Whether the call may be repeated if its outcome is unknown.
    pub(crate) repeatable: bool,
}

impl Call {
    /// A script on keys of one slot.
    pub(crate) fn script(script: &'static Script, slot: u16, keys: &[String]) -> Self {
        let mut command = Cmd::with_capacity(ARGUMENTS, BYTES + keys.iter().map(String::len).sum::<usize>());
        command.arg("EVALSHA").arg(script.hash()).arg(keys.len()).arg(keys);
        Self { slot, command, script: Some(script), repeatable: true }
    }

    /// A plain command.
    pub(crate) fn plain(name: &'static str, slot: u16) -> Self {
        Self { slot, command: redis::cmd(name), script: None, repeatable: true }
    }

    pub(crate) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.command.arg(argument);
        self
    }

    /// Forbids a repetition, unless the call surely was not made.
    pub(crate) fn once(mut self) -> Self {
        self.repeatable = false;
        self
    }
}
