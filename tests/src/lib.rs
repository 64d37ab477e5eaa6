//! Shared by the tests that run the real binary.
