//! Queue of hints that wait for a lookup, and of confirmed hints that wait for the end of a window.
//! Pure: no client, no clock, no I/O.
//!
//! Any client that reaches the webhook's port can send any hint, so every hint is
//! bounded before it causes a request. An equal hint counts once. An object is
//! looked up once for all its hints. A namespace has a share of the capacity and
//! of the lookups, and namespaces are served round-robin. Confirmed hints from our
//! own watch have separate capacity.

mod absent;
mod hint_queue;
mod objects;
#[cfg(test)]
mod tests;
mod work;

pub use self::{
    hint_queue::{HintQueue, LOOKUP_DELAYS_MS, MAX_NAMESPACE_OBJECTS, MAX_OBJECTS},
    work::{DiscardedHints, DueWork, Lookup, LookupResult, OfferOutcome},
};
