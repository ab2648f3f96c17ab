//! What clients and nemeses did, in the order in which it was recorded.
