//! Applications that `AppBuilder::build` refuses.

use strait_core::machine::Backlog;
use strait_core::{
    App, BuildError, Channel, ConnectContext, Endpoint, Extract, Headers, Limits, RateLimit, Route, Session, State,
};
use strait_store_memory::MemoryStore;

fn refused(endpoint: Endpoint) -> BuildError {
    App::new().endpoint(endpoint).store(MemoryStore::new()).build().expect_err("it is refused")
}

fn a() -> Endpoint {
    Endpoint::new("a", "/a")
}

#[test]
fn store_and_endpoint_are_needed() {
    assert!(matches!(App::new().endpoint(a()).build(), Err(BuildError::NoStore)));
    assert!(matches!(App::new().store(MemoryStore::new()).build(), Err(BuildError::NoEndpoint)));
    let no_room = App::new().endpoint(a()).store(MemoryStore::new()).delivery_bytes(0).build();
    assert!(matches!(no_room, Err(BuildError::DeliveryBytes)));
}

#[test]
fn names_and_paths_are_taken_once() {
    let two = |one, other| App::new().endpoint(one).endpoint(other).store(MemoryStore::new()).build();
    assert!(matches!(two(a(), Endpoint::new("a", "/b")), Err(BuildError::EndpointTwice(name)) if name == "a"));
    let path = two(Endpoint::new("a", "/rooms/{room}"), Endpoint::new("b", "/rooms/{name}"));
    let taken = path.expect_err("both match the same paths").to_string();
    for part in [r#""a""#, r#""b""#, "/rooms/{room}", "/rooms/{name}"] {
        assert!(taken.contains(part), "{taken}");
    }
    assert!(two(Endpoint::new("a", "/rooms/{room}"), Endpoint::new("b", "/rooms/lobby")).is_ok());
    assert!(matches!(refused(Endpoint::new("a", "/{a}{b}")), BuildError::Path { .. }));
}

#[test]
fn paths_that_no_request_has_are_refused() {
    let cases = [
        ("a/{id}", "`/`"),
        ("", "`/`"),
        ("/a/:id", "`{id}`"),
        ("/a/*", "`{*rest}`"),
        ("/a?b={b}", "Endpoint::opening"),
        ("/a#b", "`#`"),
    ];
    for (path, told) in cases {
        let error = refused(Endpoint::new("a", path));
        assert!(matches!(&error, BuildError::NeverMatches { .. }), "{path}: {error}");
        assert!(error.to_string().contains(told), "{path}: {error}");
    }
    for path in ["/", "/a/{id}", "/a/{*rest}", "/a:b"] {
        assert!(App::new().endpoint(Endpoint::new("a", path)).store(MemoryStore::new()).build().is_ok(), "{path}");
    }
}

#[test]
fn things_of_which_there_is_one_are_given_once() {
    let (store, quiet) = (MemoryStore::new, async || ());
    let endpoints = [
        ("authenticate", a().authenticate(quiet).authenticate(quiet)),
        ("opening", a().opening::<()>().opening::<()>()),
        ("on_connect", a().on_connect(quiet).on_connect(quiet)),
        ("on_disconnect", a().on_disconnect(quiet).on_disconnect(quiet)),
        ("on_message", a().on_message(quiet).message_route(Route::new(quiet))),
        ("on_binary", a().on_binary(quiet).on_binary(quiet)),
    ];
    for (what, endpoint) in endpoints {
        let error = refused(endpoint);
        assert_eq!(
            error.to_string(),
            format!("`{what}` of endpoint \"a\" was given twice, the second would take the place of the first")
        );
    }
    let state = App::new().endpoint(a()).store(store()).state(1_u64).state("x").state(2_u64).build();
    assert!(matches!(state, Err(BuildError::Twice(what)) if what.contains("u64")));
    let twice = App::new().endpoint(a()).store(store()).store(store()).build();
    assert!(matches!(twice, Err(BuildError::Twice(what)) if what.contains("store")));
}

#[test]
fn a_route_is_given_once() {
    let twice = refused(a().on("x", async || ()).route("x", Route::new(async || ())));
    assert!(matches!(&twice, BuildError::RouteTwice { key, .. } if key == "x"));
    assert_eq!(twice.to_string(), r#"endpoint "a" has two routes for "x""#);
}

#[test]
fn routing_keys_are_not_what_replies_need() {
    for key in ["", "error", "gap", "result"] {
        assert!(matches!(refused(a().routing_key(key)), BuildError::RoutingKey(_)), "{key}");
    }
}

#[test]
fn limits_that_cannot_work_are_refused_by_name() {
    use std::time::Duration;
    let zero = Duration::ZERO;
    let backlog = |messages, bytes| Limits { backlog: Backlog { messages, bytes }, ..Limits::default() };
    let rate = |per_second, burst| Limits {
        rate: Some(RateLimit { per_second, burst, ..RateLimit::default() }),
        ..Limits::default()
    };
    let same = Limits { ping: Duration::from_secs(60), ..Limits::default() };
    let cases = [
        (Limits { message: 0, ..Limits::default() }, "message", "at least 1 byte"),
        (Limits { queue: 0, ..Limits::default() }, "queue", "at least 1 byte"),
        (backlog(0, 1), "backlog.messages", "at least 1"),
        (backlog(1, 0), "backlog.bytes", "at least 1 byte"),
        (rate(0, 1), "rate.per_second", "at least 1, or `rate` none"),
        (rate(1, 0), "rate.burst", "at least 1"),
        (Limits { handler: zero, ..Limits::default() }, "handler", "longer than nothing"),
        (Limits { ping: zero, ..Limits::default() }, "ping", "longer than nothing"),
        (same, "silent", "longer than `ping`, so that an answer has time to come"),
        (Limits { closing: zero, ..Limits::default() }, "closing", "longer than nothing"),
    ];
    for (limits, limit, must) in cases {
        let expected = format!(r#"the limit `{limit}` of endpoint "a" must be {must}"#);
        assert_eq!(refused(a().limits(limits)).to_string(), expected);
    }
    let resumable = refused(a().resumable(zero)).to_string();
    assert_eq!(resumable, r#"the limit `resumable` of endpoint "a" must be longer than nothing"#);
    let smallest = Limits { message: 1, queue: 1, subscriptions: 0, ..rate(1, 1) };
    App::new().endpoint(a().limits(smallest)).store(MemoryStore::new()).build().expect("these work");
}

#[test]
fn every_handlers_state_is_needed() {
    #[derive(Clone)]
    struct Db;
    async fn db(_: State<Db>) {}
    async fn authenticate(_: Headers, _: State<Db>) -> Option<Session<()>> {
        None
    }
    type Build = fn() -> Endpoint;
    let endpoints: [(&str, Build); 7] = [
        ("authenticate", || a().authenticate(authenticate)),
        ("on_connect", || a().on_connect(db)),
        ("on_disconnect", || a().on_disconnect(db)),
        ("on", || a().on("x", db)),
        ("route", || a().route("x", Route::new(db).public())),
        ("on_message", || a().on_message(db)),
        ("on_binary", || a().on_binary(db)),
    ];
    for (at, endpoint) in endpoints {
        let missing = refused(endpoint());
        assert!(matches!(&missing, BuildError::NoState { .. }), "{at}: {missing}");
        assert!(missing.to_string().contains("Db, give one with `state`"), "{at}: {missing}");
        App::new().endpoint(endpoint()).state(Db).store(MemoryStore::new()).build().expect(at);
    }
}

#[test]
fn arguments_of_ones_own_may_need_states_through_others() {
    struct Mine;
    impl Extract<ConnectContext> for Mine {
        fn extract(context: &mut ConnectContext) -> Result<Self, strait_core::Error> {
            State::<u8>::extract(context).map(|_| Self)
        }

        fn requirement() -> Option<strait_core::Requirement> {
            <State<u8> as Extract<ConnectContext>>::requirement()
        }
    }
    assert!(matches!(refused(a().on_connect(async |_: Mine, _: Channel| ())), BuildError::NoState { .. }));
}
