//! The state of the world and what to do about it.
