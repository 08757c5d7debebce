//! The router in process.
