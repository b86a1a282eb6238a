//! All scripts. Each of them touches the keys that it is given, which are in one slot.

use crate::script::Script;

macro_rules! scripts {
    ($($name:ident: $($file:literal)+;)*) => {
        $(pub(crate) static $name: Script = Script::new(concat!($(include_str!(concat!("lua/", $file)), "\n"),+));)*

        /// What a server is told of when it is first connected to.
        pub(crate) static ALL: &[&Script] = &[$(&$name),*];
    };
}

scripts! {
    ATTACH: "stream.lua" "attach.lua";
    CLAIM: "stream.lua" "channel.lua" "claim.lua";
    DELIVER: "stream.lua" "deliver.lua";
    DETACH: "stream.lua" "channel.lua" "detach.lua";
    HEAD: "stream.lua" "head.lua";
    HISTORY: "stream.lua" "history.lua";
    INBOX: "stream.lua" "inbox.lua";
    LEAVE_BUS: "leave_bus.lua";
    LOCK: "lock.lua";
    LOOK: "stream.lua" "look.lua";
    MEMBER: "stream.lua" "member.lua";
    OPEN: "stream.lua" "open.lua";
    PAGE: "page.lua";
    PASS: "stream.lua" "pass.lua";
    PUBLISH: "stream.lua" "publish.lua";
    RELAY: "stream.lua" "relay.lua";
    RELAY_DONE: "relay_done.lua";
    REMOVE: "remove.lua";
    RENEW: "stream.lua" "renew.lua";
    REPLAY: "stream.lua" "replay.lua";
    RESERVE: "reserve.lua";
    SEND: "stream.lua" "send.lua";
    STAY: "stream.lua" "stay.lua";
    SUBSCRIBE: "subscribe.lua";
    SUBSCRIBED: "subscribed.lua";
    SWEEP: "sweep.lua";
    TOPICS: "topics.lua";
    UNDO_OPEN: "undo_open.lua";
    UNLOCK: "unlock.lua";
    UNSUBSCRIBE: "unsubscribe.lua";
    VACATE: "vacate.lua";
    WRITE: "stream.lua" "write.lua";
}
