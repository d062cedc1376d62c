//! Wire types to domain types and back, with every limit checked before memory is taken.
