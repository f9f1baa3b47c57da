//! Joining through a whole sidecar, on loopback.
