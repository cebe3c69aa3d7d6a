//! The most similar known name, for a name that is not known.

/// Returns the known name with the smallest distance to `name`, unless that distance is too large. Otherwise, the only one that
/// begins with it, or the only one that contains it as whole words. The first `prefix` bytes are common to all names and do
/// not count.
pub(crate) fn nearest<'a>(name: &str, known: &'a [String], prefix: usize) -> Option<&'a str> {
    let distances = known.iter().map(|other| (distance(name, other), other.as_str()));
    // At most a third of the letters may differ.
    let max_distance = name.len().saturating_sub(prefix) / 3;
    let nearest = distances.min().filter(|&(distance, _)| distance <= max_distance.max(1)).map(|(_, other)| other);
    let name = name.get(prefix..).filter(|name| !name.is_empty());
    nearest.or_else(|| longer(name?, known, prefix))
}

/// Returns the only known name that begins with `name`, or else the only one that contains its words.
fn longer<'a>(name: &str, known: &'a [String], prefix: usize) -> Option<&'a str> {
    let only = |is_longer: &dyn Fn(&str) -> bool| {
        let mut longer = known.iter().filter(|other| other.get(prefix..).is_some_and(is_longer));
        longer.next().filter(|_| longer.next().is_none()).map(String::as_str)
    };
    let words = format!("_{name}_");
    only(&|other| other.starts_with(name)).or_else(|| only(&|other| format!("_{other}_").contains(&words)))
}

/// Returns the Levenshtein distance: the number of characters to insert, remove or replace.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (from, to, expected) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }
}
