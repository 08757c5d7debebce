//! Run of a trace, and what it showed.

pub mod api_requests;
pub mod execute;
pub mod figures;
pub mod policy;
pub mod record;
