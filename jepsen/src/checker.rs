//! What a history shows: nothing lost, nothing forbidden.
