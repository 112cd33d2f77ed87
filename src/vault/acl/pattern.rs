//! Which strings a path of a policy stands for, and how two such sets lie to each other.
//!
//! Isolation is proved by inclusion ("every path this rule speaks of is one of ours"), never by trying
//! paths. So this module knows nothing but the three forms that Vault has: text that stands for itself,
//! `+` as a whole segment, and `*` as the last character.

use std::cmp::Reverse;

/// The paths that a rule speaks of.
///
/// Between slashes stand segments. A `+` matches any one segment, the empty one too: `a/+` speaks of
/// `a/`. An open pattern goes on with anything, slashes included, behind its last segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern {
    /// Never empty: the empty path is one empty segment. The last one of an open pattern is no `Any`.
    segments: Vec<Segment>,
    open: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Segment {
    Any,
    Is(String),
}

impl Segment {
    /// Whether some segment fits both.
    fn meets(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Any, _) | (_, Self::Any)) || self == other
    }

    /// Whether what fits `other` fits this.
    fn covers(&self, other: &Self) -> bool {
        *self == Self::Any || self == other
    }

    /// Whether some segment fits this and begins so.
    fn may_begin_with(&self, prefix: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(text) => text.starts_with(prefix),
        }
    }

    /// Whether each segment that fits this begins so.
    fn begins_with(&self, prefix: &str) -> bool {
        match self {
            Self::Any => prefix.is_empty(),
            Self::Is(text) => text.starts_with(prefix),
        }
    }
}

impl Pattern {
    /// The pattern of a rule's path without templates; `None` for `+*`, which Vault refuses. One
    /// leading slash is dropped, as Vault does.
    pub fn parse(path: &str) -> Option<Self> {
        if path.contains("+*") {
            return None;
        }
        let path = strip_slash(path);
        Some(match path.strip_suffix('*') {
            Some(prefix) => Self::new(prefix, true),
            None => Self::new(path, false),
        })
    }

    /// All that a path with a template (`{{…}}`) could become, whatever is put in: also text with
    /// slashes and wildcards.
    pub fn of_template(path: &str) -> Self {
        let known = strip_slash(path.split("{{").next().unwrap_or_default());
        // `a/+{{x}}` becomes `a/+` where nothing is put in: then its last segment is any.
        let known = match known.rsplit_once('/') {
            Some((_, "+")) => &known[..known.len() - 1],
            None if known == "+" => "",
            _ => known,
        };
        Self::new(known, true)
    }

    /// This path alone; no character is special.
    pub fn exact(path: &str) -> Self {
        let segments = path.split('/').map(|segment| Segment::Is(segment.to_owned())).collect();
        Self { segments, open: false }
    }

    /// All paths below this one, the one with nothing but a slash behind it included; no character is
    /// special.
    pub fn below(path: &str) -> Self {
        let mut pattern = Self::exact(path);
        pattern.segments.push(Segment::Is(String::new()));
        Self { open: true, ..pattern }
    }

    fn new(path: &str, open: bool) -> Self {
        let segment = |text: &str| match text {
            "+" => Segment::Any,
            text => Segment::Is(text.to_owned()),
        };
        Self { segments: path.split('/').map(segment).collect(), open }
    }

    /// Whether the path is one of these.
    pub fn matches(&self, path: &str) -> bool {
        let last = self.segments.len() - 1;
        let mut rest = Some(path);
        for (index, segment) in self.segments.iter().enumerate() {
            let Some(text) = rest else { return false };
            if self.open && index == last {
                return matches!(segment, Segment::Is(prefix) if text.starts_with(prefix.as_str()));
            }
            let (head, tail) = match text.split_once('/') {
                Some((head, tail)) => (head, Some(tail)),
                None => (text, None),
            };
            if matches!(segment, Segment::Is(known) if known != head) {
                return false;
            }
            rest = tail;
        }
        rest.is_none()
    }

    /// The prefix in the last segment of an open pattern, and the segments before it.
    fn opening(&self) -> (&[Segment], &str) {
        match self.segments.split_last() {
            Some((Segment::Is(prefix), before)) if self.open => (before, prefix),
            _ => (&self.segments, ""),
        }
    }

    /// Whether each path of `other` is one of these.
    pub fn covers(&self, other: &Self) -> bool {
        let covered = |(ours, theirs): (&Segment, &Segment)| ours.covers(theirs);
        if !self.open {
            return !other.open
                && self.segments.len() == other.segments.len()
                && self.segments.iter().zip(&other.segments).all(covered);
        }
        let (before, prefix) = self.opening();
        // An open pattern may end within the segment that ours begins with `prefix`, so it has to
        // begin there with as much; a closed one has the segment whole.
        other.segments.len() > before.len()
            && before.iter().zip(&other.segments).all(covered)
            && other.segments[before.len()].begins_with(prefix)
    }

    /// The paths that are in both; `None` if there are none. Where the intersection has no pattern (a
    /// segment that is any but begins with certain letters), it is a pattern with more paths.
    pub fn meet(&self, other: &Self) -> Option<Self> {
        let (long, short) =
            if self.segments.len() >= other.segments.len() { (self, other) } else { (other, self) };
        if long.segments.len() == short.segments.len() {
            return match (self.open, other.open) {
                (false, false) => self.overlay(other, self.segments.len()),
                (true, false) => other.within(self),
                (false, true) => self.within(other),
                (true, true) => {
                    let longer = if self.opening().1.len() >= other.opening().1.len() {
                        (self, other)
                    } else {
                        (other, self)
                    };
                    longer.0.within(longer.1)
                }
            };
        }
        if short.open { long.within(short) } else { None }
    }

    /// The paths of this that `open` has too; `open` has not more segments.
    fn within(&self, open: &Self) -> Option<Self> {
        let (before, prefix) = open.opening();
        if !self.segments[before.len()].may_begin_with(prefix) {
            return None;
        }
        self.overlay(open, before.len())
    }

    /// This with what `other` knows better about the first `count` segments.
    fn overlay(&self, other: &Self, count: usize) -> Option<Self> {
        let mut met = self.clone();
        for (ours, theirs) in met.segments.iter_mut().zip(&other.segments).take(count) {
            if !ours.meets(theirs) {
                return None;
            }
            if *ours == Segment::Any {
                ours.clone_from(theirs);
            }
        }
        Some(met)
    }

    /// The first segment, if it is known whole.
    pub fn first_segment(&self) -> Option<&str> {
        match self.segments.first() {
            Some(Segment::Is(text)) if !self.open || self.segments.len() > 1 => Some(text),
            _ => None,
        }
    }
}

/// Which of several rules that match a path decides: the greatest. It does not depend on the path.
///
/// Vault's order: the first wildcard stands later; it is not a prefix; it has fewer `+`; it is longer;
/// its text is greater.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Priority {
    first_wildcard: usize,
    closed: bool,
    wildcards: Reverse<usize>,
    length: usize,
    text: String,
}

impl Priority {
    /// The priority of a rule's path; `None` if it is exact, which goes before all others.
    pub fn of(path: &str) -> Option<Self> {
        let path = strip_slash(path);
        // Vault looks for a `+` that begins a segment, even one that goes on.
        let by_segment = path == "+" || path.starts_with("+/") || path.contains("/+");
        let (text, closed) = match path.strip_suffix('*') {
            Some(prefix) => (prefix, false),
            None if by_segment => (path, true),
            None => return None,
        };
        // And then the first `+` of all counts, wherever it is.
        let first_plus = text.find('+').filter(|_| by_segment);
        Some(Self {
            first_wildcard: first_plus.unwrap_or(text.len()),
            closed,
            wildcards: Reverse(text.split('/').filter(|segment| *segment == "+").count()),
            length: text.len(),
            text: text.to_owned(),
        })
    }
}

/// Paths of Vault begin after the slash of the API's path.
pub fn strip_slash(path: &str) -> &str {
    path.strip_prefix('/').unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(path: &str) -> Pattern {
        Pattern::parse(path).unwrap()
    }

    #[test]
    fn a_path_without_wildcards_is_itself() {
        assert!(pattern("a/b").matches("a/b"));
        for other in ["a", "a/", "a/b/", "a/bc", "a/b/c", "/a/b", ""] {
            assert!(!pattern("a/b").matches(other), "{other}");
        }
        assert!(pattern("/a/b").matches("a/b"));
        assert!(pattern("a/*/b").matches("a/*/b"));
        assert!(!pattern("a/*/b").matches("a/x/b"));
    }

    #[test]
    fn a_star_at_the_end_is_anything_that_follows() {
        for path in ["a/b", "a/b/", "a/bc", "a/b/c/d"] {
            assert!(pattern("a/b*").matches(path), "{path}");
        }
        assert!(!pattern("a/b/*").matches("a/b"));
        assert!(pattern("a/b/*").matches("a/b/"));
        assert!(pattern("*").matches(""));
    }

    #[test]
    fn a_plus_is_one_segment_and_may_be_empty() {
        assert!(pattern("a/+/c").matches("a/b/c"));
        assert!(pattern("a/+").matches("a/"));
        assert!(pattern("+").matches(""));
        assert!(!pattern("a/+").matches("a"));
        assert!(!pattern("a/+").matches("a/b/c"));
        assert!(pattern("a/+/*").matches("a/b/"));
        assert!(!pattern("a/+/*").matches("a/b"));
        assert!(pattern("a/+b").matches("a/+b") && !pattern("a/+b").matches("a/xb"));
    }

    #[test]
    fn a_plus_before_the_star_is_refused() {
        assert_eq!(Pattern::parse("a/+*"), None);
        assert_eq!(Pattern::parse("a+*"), None);
    }

    #[test]
    fn a_template_is_anything_from_where_it_stands() {
        assert_eq!(Pattern::of_template("a/b/{{x}}/c"), pattern("a/b/*"));
        assert_eq!(Pattern::of_template("a/b{{x}}"), pattern("a/b*"));
        assert_eq!(Pattern::of_template("/{{x}}"), pattern("*"));
        assert_eq!(Pattern::of_template("a/+{{x}}"), pattern("a/*"));
        assert_eq!(Pattern::of_template("+{{x}}"), pattern("*"));
        assert_eq!(Pattern::of_template("+/a{{x}}"), pattern("+/a*"));
    }

    #[test]
    fn what_is_below_includes_the_slash_and_not_the_name() {
        assert_eq!(Pattern::below("a/b"), pattern("a/b/*"));
        assert!(!Pattern::below("a/b").matches("a/b"));
        assert!(!Pattern::below("a/+").matches("a/x/c"));
    }

    #[test]
    fn a_prefix_of_a_name_is_not_inside_the_directory() {
        let own = Pattern::below("secret/data/certs/1/web");
        assert!(own.covers(&pattern("secret/data/certs/1/web/*")));
        assert!(own.covers(&pattern("secret/data/certs/1/web/+/x")));
        assert!(own.covers(&pattern("secret/data/certs/1/web/+")));
        for outside in [
            "secret/data/certs/1/web",
            "secret/data/certs/1/web*",
            "secret/data/certs/1/we*",
            "secret/data/certs/1/+/*",
            "secret/+/certs/1/web/*",
            "secret/data/certs/1/web2/*",
            "*",
            "+/data/certs/1/web/x",
        ] {
            assert!(!own.covers(&pattern(outside)), "{outside}");
        }
    }

    #[test]
    fn priority_is_vaults() {
        let order = ["*", "a*", "+/b", "a/+/*", "a/+/+/c", "a/+/c", "a/+/cc", "a/b*", "a/b/+"];
        let priorities: Vec<Priority> =
            order.iter().map(|path| Priority::of(path).unwrap()).collect();
        let before = |low: &str, high: &str| {
            assert!(Priority::of(low) < Priority::of(high), "{low} before {high}");
        };
        assert_eq!(priorities.len(), order.len());
        before("*", "a*");
        before("+/b", "a*");
        before("a/+/*", "a/+/c");
        before("a/+/+/c", "a/+/c");
        before("a/+/+/*", "a/+/+/c");
        before("a/+/c*", "a/+/cc*");
        before("a/+", "a/b*");
        before("a/b*", "a/b/+");
        before("a/*", "a/+");
        assert_eq!(Priority::of("a/b"), None);
        assert_eq!(Priority::of("a+/b"), None);
        assert!(Priority::of("a/+b").is_some());
    }

    fn segments() -> impl Strategy<Value = String> {
        let segment = prop::sample::select(vec!["", "a", "ab", "b", "+", "+", "+a", "*"]);
        prop::collection::vec(segment, 1..5).prop_map(|segments| segments.join("/"))
    }

    fn patterns() -> impl Strategy<Value = Pattern> {
        (segments(), any::<bool>()).prop_filter_map("refused", |(path, open)| {
            Pattern::parse(&if open { format!("{path}*") } else { path })
        })
    }

    fn paths() -> impl Strategy<Value = String> {
        let segment = prop::sample::select(vec!["", "a", "ab", "b", "abc", "+", "+a", "*", "c"]);
        prop::collection::vec(segment, 1..6).prop_map(|segments| segments.join("/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn inclusion_is_sound(big in patterns(), small in patterns(), path in paths()) {
            if big.covers(&small) && small.matches(&path) {
                prop_assert!(big.matches(&path), "{big:?} {small:?} {path}");
            }
        }

        #[test]
        fn what_is_in_both_is_in_the_intersection(
            one in patterns(),
            other in patterns(),
            path in paths(),
        ) {
            if one.matches(&path) && other.matches(&path) {
                let met = one.meet(&other);
                prop_assert!(met.is_some_and(|met| met.matches(&path)), "{one:?} {other:?} {path}");
            }
        }

        #[test]
        fn intersection_does_not_depend_on_the_order(one in patterns(), other in patterns()) {
            prop_assert_eq!(one.meet(&other).is_some(), other.meet(&one).is_some());
        }

        #[test]
        fn a_pattern_covers_what_it_meets_in_a_part_of_it(
            one in patterns(),
            other in patterns(),
        ) {
            prop_assert!(one.covers(&one));
            if one.covers(&other) {
                prop_assert!(one.meet(&other).is_some());
            }
        }

        #[test]
        fn inclusion_is_complete_for_sampled_paths(big in patterns(), small in patterns()) {
            // A path of `small` that is as strange as it can be shows whether `big` has all.
            let strange = |segment: &Segment| match segment {
                Segment::Any => "~".to_owned(),
                Segment::Is(text) => text.clone(),
            };
            let mut path: Vec<String> = small.segments.iter().map(strange).collect();
            let plain = path.join("/");
            path.push("~/~/~/~/~/~".to_owned());
            let samples = if small.open {
                vec![plain.clone(), format!("{plain}~"), path.join("/")]
            } else {
                vec![plain]
            };
            let empty: Vec<String> = small.segments.iter().map(|segment| match segment {
                Segment::Any => String::new(),
                Segment::Is(text) => text.clone(),
            }).collect();
            let all = samples.iter().chain([&empty.join("/")]).all(|path| big.matches(path));
            prop_assert_eq!(all, big.covers(&small), "{:?} {:?}", big, small);
        }
    }
}
