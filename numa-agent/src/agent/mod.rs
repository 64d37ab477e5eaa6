//! The host agent: one owner of state, fed by one stream of events.
