//! All scripts. Each touches only the keys that it is given, which are in one slot.

use crate::script::Script;

macro_rules! scripts {
    ($($name:ident: $($file:literal)+;)*) => {
        $(pub(crate) static $name: Script = Script::new(concat!($(include_str!(concat!("lua/", $file)), "\n"),+));)*

        /// The scripts that every new connection loads.
        pub(crate) static ALL: &[&Script] = &[$(&$name),*];
    };
}

scripts! {
    ATTACH: "meta.lua" "attach.lua";
    CLAIM: "meta.lua" "channel.lua" "claim.lua";
    DELIVER: "meta.lua" "stream.lua" "deliver.lua";
    DETACH: "meta.lua" "channel.lua" "detach.lua";
    HEAD: "meta.lua" "head.lua";
    HISTORY: "meta.lua" "history.lua";
    INBOX: "meta.lua" "stream.lua" "inbox.lua";
    LEAVE_BUS: "leave_bus.lua";
    LOCK: "lock.lua";
    LOOK: "meta.lua" "look.lua";
    MEMBER: "meta.lua" "stream.lua" "member.lua";
    OPEN: "meta.lua" "open.lua";
    PAGE: "page.lua";
    PASS: "pass_quickly.lua" "meta.lua" "pass.lua";
    PROBE: "probe.lua";
    PUBLISH: "meta.lua" "stream.lua" "publish.lua";
    RELAY: "meta.lua" "relay.lua";
    RELAY_DONE: "meta.lua" "relay_done.lua";
    REMOVE: "remove.lua";
    RENEW: "meta.lua" "renew.lua";
    REPLAY: "meta.lua" "stream.lua" "replay.lua";
    RESERVE: "reserve.lua";
    ROLLED_BACK: "meta.lua" "rolled_back.lua";
    SEND: "meta.lua" "stream.lua" "send.lua";
    STAY: "meta.lua" "stay.lua";
    SUBSCRIBE: "subscribe.lua";
    SUBSCRIBED: "subscribed.lua";
    SWEEP: "sweep.lua";
    TOPICS: "topics.lua";
    UNDO_OPEN: "undo_open.lua";
    UNLOCK: "unlock.lua";
    UNSUBSCRIBE: "unsubscribe.lua";
    VACATE: "vacate.lua";
    WRITE: "meta.lua" "write.lua";
}
