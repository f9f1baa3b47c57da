//! `countersign audit`.
