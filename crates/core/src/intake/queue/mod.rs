//! Queue of hints that wait for a lookup, and of confirmed hints that wait for the end of a window.
//! Pure: no client, no clock, no I/O.
//!
//! Any client that reaches the webhook's port can send any hint, so every hint is
//! bounded before it causes a request. An equal hint counts once, also after the
//! lookup of its object. An object is looked up once for all its hints, and again
//! only for another change, with delays that double while its template is the same.
//! A namespace has a share of the capacity and of the lookups, and namespaces are
//! served round-robin; lookups that find nothing use up more of the share. Confirmed
//! hints from our own watch have separate capacity. Objects of controllers of unknown
//! kinds are warmed for the images that recur.

mod hint_queue;
mod lookup_memory;
mod lookups;
#[cfg(test)]
mod memory_tests;
mod objects;
mod recurring_images;
#[cfg(test)]
mod tests;
mod work;

pub use self::{
    hint_queue::{HintQueue, MAX_NAMESPACE_OBJECTS, MAX_OBJECTS},
    lookup_memory::LOOKUP_DELAYS_MS,
    work::{DiscardedHints, DueWork, Lookup, LookupResult, OfferOutcome},
};
