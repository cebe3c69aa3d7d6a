//! Model of the pressure reports: for each connection, reports above the high-water mark and at the low-water mark
//! alternate.

use std::collections::BTreeSet;

use crate::base::id::ConnId;
use crate::engine::app::Pressure;

/// Connections reported above the high-water mark and not yet at the low one.
#[derive(Debug, Default)]
pub(crate) struct PressureModel(BTreeSet<ConnId>);

impl PressureModel {
    pub(crate) fn reported(&mut self, conn: ConnId, pressure: Pressure) -> Result<(), String> {
        let alternates = match pressure {
            Pressure::High { .. } => self.0.insert(conn),
            Pressure::Low { .. } => self.0.remove(&conn),
        };
        if alternates { Ok(()) } else { Err(format!("conn={conn} was reported {pressure:?} twice")) }
    }

    pub(crate) fn left(&mut self, conn: ConnId) {
        self.0.remove(&conn);
    }
}
