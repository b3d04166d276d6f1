//! What may be chosen: dimensions with ranges, some of which are there only where another has a certain value.

use super::random::Random;
use crate::error::{Result, TrainError, other};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a dimension may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Kind {
    /// A number from `low` to `high`.
    Float {
        /// Least value.
        low: f64,
        /// Largest value.
        high: f64,
        /// Whether its logarithm is what is searched evenly.
        #[serde(default)]
        log: bool,
    },
    /// A whole number from `low` to `high`.
    Int {
        /// Least value.
        low: i64,
        /// Largest value.
        high: i64,
        /// Distance of two values.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        step: i64,
        /// Whether its logarithm is what is searched evenly.
        #[serde(default)]
        log: bool,
    },
    /// One of some words.
    Choice {
        /// The words.
        of: Vec<String>,
    },
}

fn one() -> i64 {
    1
}

fn is_one(n: &i64) -> bool {
    *n == 1
}

/// When a dimension is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct When {
    /// The earlier dimension that it hangs on.
    pub name: String,
    /// A number at least this large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<i64>,
    /// One of these words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub is: Vec<String>,
}

/// One thing to choose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dimension {
    /// Its name, `filters2`.
    pub name: String,
    /// What it may be.
    #[serde(flatten)]
    pub kind: Kind,
    /// When it is there; always, when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
}

/// All that is to be chosen, in an order in which later dimensions may hang on earlier ones.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// The dimensions.
    pub dimension: Vec<Dimension>,
}

/// A point: the value of each dimension in order, none where the dimension is not there. Words are positions in
/// their list.
pub type Point = Vec<Option<f64>>;

/// A number with 15 digits, which every reader of JSON gives back as it was.
pub(super) fn short(v: f64) -> f64 {
    format!("{v:.14e}").parse().unwrap_or(v)
}

/// More dimensions are refused.
const MAX_DIMENSIONS: usize = 1000;

impl Kind {
    /// Least and largest value on the scale that is searched evenly; whole numbers reach half a step beyond.
    pub(super) fn bounds(&self) -> (f64, f64) {
        match *self {
            Kind::Float { low, high, log: false } => (low, high),
            Kind::Float { low, high, log: true } => (low.ln(), high.ln()),
            Kind::Int { low, high, step, log } => {
                let half = 0.5 * step as f64;
                let (low, high) = (low as f64 - half, high as f64 + half);
                if log { (low.ln(), high.ln()) } else { (low, high) }
            }
            Kind::Choice { .. } => (0.0, 0.0),
        }
    }

    fn log(&self) -> bool {
        matches!(self, Kind::Float { log: true, .. } | Kind::Int { log: true, .. })
    }

    /// A value on the scale that is searched evenly.
    pub(super) fn to_scale(&self, v: f64) -> f64 {
        if self.log() { v.ln() } else { v }
    }

    /// The value nearest to a place on that scale.
    pub(super) fn of_scale(&self, s: f64) -> f64 {
        let v = if self.log() { s.exp() } else { s };
        match *self {
            Kind::Float { low, high, .. } => short(v).clamp(low, high),
            Kind::Int { low, high, step, .. } => {
                let steps = ((v - low as f64) / step as f64).round();
                (low as f64 + steps * step as f64).clamp(low as f64, high as f64)
            }
            Kind::Choice { .. } => v,
        }
    }

    /// A value drawn evenly.
    pub(super) fn draw(&self, random: &mut Random) -> f64 {
        match self {
            Kind::Choice { of } => random.below(of.len()) as f64,
            _ => {
                let (low, high) = self.bounds();
                self.of_scale(low + random.unit() * (high - low))
            }
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        match self {
            Kind::Float { low, high, log } => {
                let good = low.is_finite() && high.is_finite() && low <= high;
                let least = !log || *low > 0.0;
                if good && least { Ok(()) } else { Err(range(low, high, *log)) }
            }
            Kind::Int { low, high, step, log } => {
                let good = low <= high && low.unsigned_abs().max(high.unsigned_abs()) < 1 << 52;
                // On a logarithm's scale, half a step below the least must be above 0.
                let least = !log || 2 * *low > *step;
                let whole = *step > 0 && (high - low) % step == 0;
                match good && least {
                    true if !whole => {
                        Err(format!("cannot go from {low} to {high} in steps of {step}"))
                    }
                    true => Ok(()),
                    false => Err(range(low, high, *log)),
                }
            }
            Kind::Choice { of } if of.is_empty() => Err("has no choices; give some".into()),
            Kind::Choice { of } => {
                match of.iter().enumerate().find(|(i, c)| of[..*i].contains(c)) {
                    Some((_, twice)) => Err(format!("has the choice `{twice}` twice; remove one")),
                    None => Ok(()),
                }
            }
        }
    }

    /// The value as people write it.
    pub fn told(&self, v: f64) -> String {
        match self {
            Kind::Float { .. } if v != 0.0 && !(1e-3..1e4).contains(&v.abs()) => format!("{v:.2e}"),
            Kind::Float { .. } => format!("{v:.4}"),
            Kind::Int { .. } => format!("{v:.0}"),
            Kind::Choice { of } => of.get(v as usize).cloned().unwrap_or_default(),
        }
    }

    fn to_json(&self, v: f64) -> Value {
        match self {
            Kind::Float { .. } => v.into(),
            Kind::Int { .. } => (v as i64).into(),
            Kind::Choice { of } => of.get(v as usize).cloned().unwrap_or_default().into(),
        }
    }

    fn of_json(&self, value: &Value) -> Option<f64> {
        match self {
            Kind::Float { low, high, .. } => value.as_f64().filter(|v| (*low..=*high).contains(v)),
            Kind::Int { low, high, step, .. } => {
                let good = |v: &i64| (*low..=*high).contains(v) && (v - low) % step == 0;
                value.as_i64().filter(good).map(|v| v as f64)
            }
            Kind::Choice { of } => {
                let word = value.as_str()?;
                of.iter().position(|c| c == word).map(|i| i as f64)
            }
        }
    }
}

fn range(low: impl std::fmt::Display, high: impl std::fmt::Display, log: bool) -> String {
    let above = if log { " above 0" } else { "" };
    format!("goes from {low} to {high}; give numbers{above}, the lower one first")
}

impl Space {
    /// Adds a dimension that is always there.
    pub fn add(&mut self, name: &str, kind: Kind) {
        self.dimension.push(Dimension { name: name.into(), kind, when: None });
    }

    /// Adds a dimension that is there only sometimes.
    pub fn add_when(&mut self, name: &str, kind: Kind, when: When) {
        self.dimension.push(Dimension { name: name.into(), kind, when: Some(when) });
    }

    /// Checks what came from a file.
    ///
    /// # Errors
    /// When a range is empty, a name is there twice, or a condition names nothing that comes before.
    pub fn check(&self) -> Result<()> {
        if self.dimension.is_empty() || self.dimension.len() > MAX_DIMENSIONS {
            let n = self.dimension.len();
            return other(format!("the space has {n} dimensions; give 1 to {MAX_DIMENSIONS}"));
        }
        for (i, d) in self.dimension.iter().enumerate() {
            let wrong = |what: String| TrainError::Other(format!("`{}` {what}", d.name));
            d.kind.check().map_err(wrong)?;
            let before = &self.dimension[..i];
            if before.iter().any(|b| b.name == d.name) {
                return Err(wrong("is there twice; rename one".into()));
            }
            let Some(when) = &d.when else { continue };
            let Some(on) = before.iter().find(|b| b.name == when.name) else {
                return Err(wrong(format!(
                    "hangs on `{}`, which does not come before it",
                    when.name
                )));
            };
            let fits = match &on.kind {
                Kind::Choice { of } => {
                    when.at_least.is_none() && when.is.iter().all(|w| of.contains(w))
                }
                _ => when.is.is_empty(),
            };
            if !fits || (when.at_least.is_none() && when.is.is_empty()) {
                return Err(wrong(format!("hangs on a value that `{}` cannot have", on.name)));
            }
        }
        Ok(())
    }

    /// Position of the dimension of that name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.dimension.iter().position(|d| d.name == name)
    }

    /// Whether a dimension is there, by what was chosen before it.
    pub(super) fn there(&self, i: usize, point: &[Option<f64>]) -> bool {
        let Some(when) = &self.dimension[i].when else { return true };
        let on = self.position(&when.name).filter(|&j| j < i);
        let Some((j, v)) = on.and_then(|j| Some((j, (*point.get(j)?)?))) else { return false };
        match &self.dimension[j].kind {
            Kind::Choice { of } => of.get(v as usize).is_some_and(|w| when.is.contains(w)),
            _ => when.at_least.is_some_and(|least| v >= least as f64),
        }
    }

    /// Dimensions that are there together: those with the same condition, in the order of their first.
    pub(super) fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (i, d) in self.dimension.iter().enumerate() {
            match groups.iter_mut().find(|g| self.dimension[g[0]].when == d.when) {
                Some(group) => group.push(i),
                None => groups.push(vec![i]),
            }
        }
        groups
    }

    /// A point drawn evenly.
    pub(super) fn draw(&self, random: &mut Random) -> Point {
        let mut point = Point::new();
        for (i, d) in self.dimension.iter().enumerate() {
            let value = self.there(i, &point).then(|| d.kind.draw(random));
            point.push(value);
        }
        point
    }

    /// The value of a dimension; none where it is not there.
    pub fn value(&self, point: &[Option<f64>], name: &str) -> Option<f64> {
        *point.get(self.position(name)?)?
    }

    /// The word chosen in a dimension.
    pub fn word<'a>(&'a self, point: &[Option<f64>], name: &str) -> Option<&'a str> {
        let i = self.position(name)?;
        let v = (*point.get(i)?)?;
        match &self.dimension[i].kind {
            Kind::Choice { of } => of.get(v as usize).map(String::as_str),
            _ => None,
        }
    }

    /// A point as names and values.
    pub fn to_json(&self, point: &[Option<f64>]) -> Map<String, Value> {
        let pairs = self.dimension.iter().zip(point);
        pairs.filter_map(|(d, v)| Some((d.name.clone(), d.kind.to_json((*v)?)))).collect()
    }

    /// The point of names and values; none when it is not in the space.
    pub fn of_json(&self, map: &Map<String, Value>) -> Option<Point> {
        let mut point = Point::new();
        for (i, d) in self.dimension.iter().enumerate() {
            let value = match (self.there(i, &point), map.get(&d.name)) {
                (true, Some(v)) => Some(d.kind.of_json(v)?),
                (false, None) => None,
                _ => return None,
            };
            point.push(value);
        }
        Some(point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(low: i64, high: i64, log: bool) -> Kind {
        Kind::Int { low, high, step: 1, log }
    }

    fn choice(of: &[&str]) -> Kind {
        Kind::Choice { of: of.iter().map(|s| s.to_string()).collect() }
    }

    fn space() -> Space {
        let mut s = Space::default();
        s.add("depth", int(1, 3, false));
        s.add("lr", Kind::Float { low: 1e-4, high: 1.0, log: true });
        s.add("pool", choice(&["none", "max"]));
        let when = When { name: "depth".into(), at_least: Some(2), is: vec![] };
        s.add_when("filters2", int(4, 64, true), when);
        let when = When { name: "pool".into(), at_least: None, is: vec!["max".into()] };
        s.add_when("window", Kind::Int { low: 2, high: 8, step: 3, log: true }, when);
        s
    }

    #[test]
    fn points_keep_to_ranges_and_conditions_and_survive_being_written() {
        let s = space();
        s.check().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for i in 0..500 {
            let p = s.draw(&mut Random::new(3, i));
            let depth = s.value(&p, "depth").unwrap();
            seen.insert(depth as i64);
            assert_eq!(s.value(&p, "filters2").is_some(), depth >= 2.0);
            assert_eq!(s.value(&p, "window").is_some(), s.word(&p, "pool") == Some("max"));
            assert!((1e-4..=1.0).contains(&s.value(&p, "lr").unwrap()));
            assert_eq!(s.of_json(&s.to_json(&p)), Some(p));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn whole_numbers_are_drawn_evenly_to_the_ends() {
        let kind = int(1, 4, false);
        let mut counts = [0; 4];
        let mut random = Random::new(0, 0);
        (0..8000).for_each(|_| counts[kind.draw(&mut random) as usize - 1] += 1);
        assert!(counts.iter().all(|c| (1850..2150).contains(c)), "{counts:?}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let told = |change: &dyn Fn(&mut Space)| {
            let mut s = space();
            change(&mut s);
            s.check().unwrap_err().to_string()
        };
        let log = Kind::Float { low: 0.0, high: 1.0, log: true };
        assert!(told(&|s| s.dimension[1].kind = log.clone()).contains("`lr`"));
        assert!(told(&|s| s.dimension[1].name = "depth".into()).contains("twice"));
        assert!(told(&|s| s.dimension[2].kind = choice(&[])).contains("no choices"));
        assert!(told(&|s| s.dimension[2].kind = choice(&["none"])).contains("cannot have"));
        assert!(told(&|s| s.dimension.swap(0, 3)).contains("does not come before"));
        assert!(Space::default().check().is_err());
    }

    #[test]
    fn a_space_is_a_readable_file() {
        let text = toml::to_string(&space()).unwrap();
        assert!(
            text.contains("[[dimension]]\nname = \"depth\"\nkind = \"int\"\nlow = 1"),
            "{text}"
        );
        assert_eq!(toml::from_str::<Space>(&text).unwrap(), space());
    }
}
