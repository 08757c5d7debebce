//! Admission reviews: their wire format, the decision about each, and its answer.
//!
//! In: the bytes of a review, the policy and the cluster context. Out: the bytes of an answer and a
//! hint.

mod decide;
mod one_pass;
mod review;

pub use self::{
    decide::{decide_task, decide_workload, identity_hint},
    review::{
        AdmissionResponse, AdmissionReview, ParseError, UID_PREFIX_BYTES, allow_response,
        parse_uid, serialize_answer,
    },
};
