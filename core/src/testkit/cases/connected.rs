use std::collections::BTreeSet;

use crate::name::{ChannelId, NodeId};
use crate::store::{Attach, AttachAs, Attached, Location, NewChannel};
use crate::testkit::trial::{LONG, Trial};

/// The channels of a node, in pages.
async fn listed(t: &Trial, node: &NodeId, limit: usize) -> Vec<ChannelId> {
    let (mut ids, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page = t.store.connected(node, cursor.as_deref(), limit).await.unwrap();
        assert!(page.items.len() <= limit, "{} of {limit}", page.items.len());
        ids.extend(page.items);
        match page.next {
            Some(next) => cursor = Some(next),
            None => return ids,
        }
    }
}

fn at(node: &NodeId, new: NewChannel) -> NewChannel {
    let connection = new.location.connection().clone();
    NewChannel { location: Location::Node { node: node.clone(), connection }, ..new }
}

pub async fn the_connected_are_listed(t: Trial) {
    let (node, other) = (t.node().await, t.node().await);
    assert_eq!(listed(&t, &node, 10).await, []);
    let opening = t.open_as(at(&node, t.new_channel())).await;
    let open = t.open_on(&node, Some(LONG)).await;
    let moved = t.open_on(&other, Some(LONG)).await;
    let location = at(&node, t.new_channel()).location;
    let attach = Attach { by: AttachAs::Holder { generation: 1 }, location, next_token: None };
    assert!(matches!(t.store.attach(&moved.id, attach).await.unwrap(), Attached::Attached { .. }));
    // Channels elsewhere, at a gateway, or not connected any more.
    let elsewhere = t.open_on(&other, None).await;
    t.open().await;
    let detached = t.open_on(&node, Some(LONG)).await;
    t.store.detach(&detached.fence(), LONG).await.unwrap();
    t.claim(&t.open_on(&node, None).await).await;
    t.end(&t.open_on(&node, None).await).await;
    let found: BTreeSet<ChannelId> = listed(&t, &node, 10).await.into_iter().collect();
    assert_eq!(found, BTreeSet::from([opening.id, open.id, moved.id]));
    assert_eq!(listed(&t, &other, 10).await, [elsewhere.id]);
}

pub async fn those_of_one_node_are_listed_in_pages(t: Trial) {
    // One node's name begins with the other's.
    let node = NodeId::unique();
    let longer = NodeId::new(format!("{node}1")).unwrap();
    let mut expected = BTreeSet::new();
    for _ in 0..40 {
        expected.insert(t.open_on(&node, None).await.id);
        t.open_on(&longer, None).await;
    }
    for limit in [1, 7, 1000] {
        let found = listed(&t, &node, limit).await;
        assert_eq!(found.len(), expected.len(), "each once");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}

pub async fn who_stays_is_listed_while_others_come_and_go(t: Trial) {
    let node = t.node().await;
    let (mut staying, mut going) = (BTreeSet::new(), Vec::new());
    for _ in 0..30 {
        staying.insert(t.open_on(&node, None).await.id);
        going.push(t.open_on(&node, None).await);
    }
    let (mut cursor, mut first) = (None::<String>, true);
    while first || cursor.is_some() {
        first = false;
        let page = t.store.connected(&node, cursor.as_deref(), 3).await.unwrap();
        staying.retain(|id| !page.items.contains(id));
        cursor = page.next;
        if let Some(record) = going.pop() {
            t.end(&record).await;
            t.open_on(&node, None).await;
        }
    }
    assert_eq!(staying, BTreeSet::new(), "these were not listed");
}

pub async fn a_cursor_that_no_page_gave_lists_nobody_else(t: Trial) {
    let (node, other) = (t.node().await, t.node().await);
    let own = t.open_on(&node, None).await;
    t.open_on(&other, None).await;
    for cursor in ["", "x", "-1", "\u{1}", "99999999999999999999", "ä:", "0:\u{0}"] {
        if let Ok(page) = t.store.connected(&node, Some(cursor), 100).await {
            assert!(page.items.iter().all(|id| *id == own.id), "{cursor:?} lists {:?}", page.items);
        }
    }
}
