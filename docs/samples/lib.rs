//! The book's samples: every Rust block of a chapter is a doctest of the chapter's module.

macro_rules! chapters {
    ($($name:ident)*) => {
        $(
            #[cfg(doctest)]
            #[doc = include_str!(concat!("../src/", stringify!($name), ".md"))]
            pub mod $name {}
        )*
    };
}

chapters! { introduction handlers topics guarantees plain limits serving lambda postgres metrics conformance redis stores }

/// The chapter's file name is no module name.
#[cfg(doctest)]
#[doc = include_str!("../src/local-gateway.md")]
pub mod local_gateway {}

/// The README's sample.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub mod readme {}
