//! What is drawn before the first step of a run: its behaviours with their frequencies, and its configuration.
//!
//! This is swarm testing (Groce et al., 2012): a run that leaves some behaviours out and performs the others often
//! reaches states that a run with a little of everything does not reach.

pub(crate) mod behaviour;
pub(crate) mod config;
pub(crate) mod parameters;
pub(crate) mod pick;
