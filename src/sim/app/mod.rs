//! The application under test, with the commands that the simulator gives to it and the authorizations that it delays.

pub(crate) mod authorizer;
pub(crate) mod command;
pub(crate) mod under_test;
