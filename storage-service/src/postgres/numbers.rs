//! Tern's unsigned numbers as the database's signed ones.

/// For numbers that are compared: the order is kept.
pub(super) fn ordered(number: u64) -> i64 {
    (number ^ (1 << 63)).cast_signed()
}

/// The number again.
pub(super) fn from_ordered(stored: i64) -> u64 {
    stored.cast_unsigned() ^ (1 << 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept() {
        let numbers = [0, 1, 2, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX];
        assert!(numbers.map(ordered).is_sorted());
        assert_eq!(numbers.map(|number| from_ordered(ordered(number))), numbers);
    }
}
