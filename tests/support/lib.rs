//! Harness of the tests: processes, fake hardware, loads.
