//! The header line `Date`.

/// Length of the line `Date`, with its line end.
const LENGTH: usize = 37;
const DAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed";
const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
/// The first second of the year 10000, which the format cannot express.
const END: u64 = 253_402_300_800;

/// The header line `Date` (RFC 9110 section 6.6.1) with its line end, or no line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DateLine(Option<[u8; LENGTH]>);

impl DateLine {
    pub(crate) const NONE: DateLine = DateLine(None);

    /// Creates the line for a wall time in microseconds since the Unix epoch, in the format IMF-fixdate (RFC 9110 section
    /// 5.6.7). There is no line from the year 10000 on.
    pub(crate) fn at(unix_micros: u64) -> DateLine {
        let seconds = unix_micros / 1_000_000;
        if seconds >= END {
            return DateLine::NONE;
        }
        let (days, time) = ((seconds / 86_400) as u32, (seconds % 86_400) as u32);
        let (year, month, day) = civil(days);
        let mut line = *b"Date: DDD, dd MMM yyyy hh:mm:ss GMT\r\n";
        let (weekday, month) = (days as usize % 7 * 3, month as usize * 3);
        line[6..9].copy_from_slice(&DAYS[weekday..weekday + 3]);
        line[14..17].copy_from_slice(&MONTHS[month..month + 3]);
        let numbers =
            [(11, day), (18, year / 100), (20, year % 100), (23, time / 3600), (26, time / 60 % 60), (29, time % 60)];
        for (at, number) in numbers {
            line[at] = b'0' + (number / 10) as u8;
            line[at + 1] = b'0' + (number % 10) as u8;
        }
        DateLine(Some(line))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |line| line)
    }
}

/// Returns year, month from 0 and day from 1 of a day since the epoch in the Gregorian calendar. Years begin in March
/// during the computation, so that the leap day is the last of a year (Howard Hinnant, *chrono-Compatible Low-Level Date
/// Algorithms*, `civil_from_days`).
fn civil(days: u32) -> (u32, u32, u32) {
    // Days since 0000-03-01; 400 years have 146,097 days.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Five months from March have 153 days, and so do the next five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    (era * 400 + year_of_era + u32::from(month < 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the days one by one, over two eras of 400 years.
    #[test]
    fn all_days_of_the_calendar_are_right() {
        let (mut year, mut month, mut day) = (1970, 0, 1);
        for days in 0..2 * 146_097 {
            assert_eq!(civil(days), (year, month, day), "{days}");
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = [31, 28 + u32::from(is_leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize];
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month == 12 {
                (month, year) = (0, year + 1);
            }
        }
    }
}
