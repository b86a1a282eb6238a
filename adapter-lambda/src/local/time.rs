//! Times as AWS writes them.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

pub(super) fn millis(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

struct Civil {
    year: i64,
    month: usize,
    day: i64,
    hour: u64,
    minute: u64,
    second: u64,
}

/// The proleptic Gregorian calendar, in UTC: years begin in March, so that the leap day is a year's last.
fn civil(at: SystemTime) -> Civil {
    let seconds = millis(at) / 1000;
    let days = i64::try_from(seconds / 86_400).unwrap_or(0) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = (from_march + 2) % 12;
    Civil {
        year: year + era * 400 + i64::from(month < 2),
        month: usize::try_from(month).unwrap_or(0),
        day: of_year - (153 * from_march + 2) / 5 + 1,
        hour: seconds / 3600 % 24,
        minute: seconds / 60 % 60,
        second: seconds % 60,
    }
}

/// ISO 8601: `2015-08-30T12:36:00Z`.
pub(super) fn iso(at: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second } = civil(at);
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1)
}

/// As in an event's `requestTime`: `30/Aug/2015:12:36:00 +0000`.
pub(super) fn log(at: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second } = civil(at);
    format!("{day:02}/{}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000", MONTHS[month])
}

/// As in `x-amz-date`: `20150830T123600Z`.
pub(super) fn amz(at: SystemTime) -> String {
    iso(at).replace(['-', ':'], "")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_440_938_160, "2015-08-30T12:36:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(iso(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
        let date = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        assert_eq!((log(date), amz(date)), ("30/Aug/2015:12:36:00 +0000".to_owned(), "20150830T123600Z".to_owned()));
    }
}
