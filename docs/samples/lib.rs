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

chapters! { introduction handlers topics guarantees plain limits serving metrics conformance redis stores }

/// The README's sample.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub mod readme {}
