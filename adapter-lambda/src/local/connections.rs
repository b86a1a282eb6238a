//! The connections that the gateway holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

/// How many messages may wait for a client that does not read.
const WAITING: usize = 128;

/// An order to a connection's task.
#[derive(Debug)]
pub(super) enum Order {
    Send(String),
    /// The function deletes the connection.
    Close,
}

/// One connection, from before `$connect` is answered.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: String,
    pub(super) source_ip: String,
    pub(super) user_agent: String,
    pub(super) connected_at: SystemTime,
    state: Mutex<State>,
    /// The function deletes the connection: its client reads no waiting messages any more.
    deleted: Notify,
}

#[derive(Debug)]
struct State {
    last_active: SystemTime,
    /// The connection's task, once the handshake was answered.
    orders: Option<mpsc::Sender<Order>>,
}

/// Whether an order was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// There is no such connection, or not yet.
    Gone,
    /// The client does not read.
    Full,
}

impl Connection {
    pub(super) fn new(id: String, source_ip: String, user_agent: String) -> Self {
        let now = SystemTime::now();
        let state = Mutex::new(State { last_active: now, orders: None });
        Self { id, source_ip, user_agent, connected_at: now, state, deleted: Notify::new() }
    }

    pub(super) fn is_active(&self) {
        self.state.lock().last_active = SystemTime::now();
    }

    pub(super) fn last_active(&self) -> SystemTime {
        self.state.lock().last_active
    }

    pub(super) fn is_established(&self) -> bool {
        self.state.lock().orders.is_some()
    }

    /// From here on the connection takes posts.
    pub(super) fn establish(&self) -> mpsc::Receiver<Order> {
        let (sender, receiver) = mpsc::channel(WAITING);
        self.state.lock().orders = Some(sender);
        receiver
    }

    pub(super) async fn deleted(&self) {
        self.deleted.notified().await;
    }

    pub(super) fn order(&self, order: Order) -> Taken {
        let sender = self.state.lock().orders.clone();
        match sender.map(|sender| sender.try_send(order)) {
            Some(Err(mpsc::error::TrySendError::Full(Order::Close))) => {
                self.deleted.notify_one();
                Taken::Yes
            }
            Some(Ok(())) => {
                self.is_active();
                Taken::Yes
            }
            Some(Err(mpsc::error::TrySendError::Full(_))) => Taken::Full,
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => Taken::Gone,
        }
    }
}

#[derive(Default)]
pub(super) struct Connections(Mutex<HashMap<String, Arc<Connection>>>);

impl Connections {
    pub(super) fn add(&self, connection: &Arc<Connection>) {
        self.0.lock().insert(connection.id.clone(), Arc::clone(connection));
    }

    pub(super) fn remove(&self, id: &str) {
        self.0.lock().remove(id);
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Connection>> {
        self.0.lock().get(id).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub(super) fn drop_all(&self) {
        self.0.lock().clear();
    }
}
