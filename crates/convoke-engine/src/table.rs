//! What every layer of a network costs, as data and as a table for people.

use crate::Shape;
use crate::layers::Layer;
use crate::network::Network;
use serde::Serialize;

/// What one layer costs, for one sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The layer's name.
    pub name: String,
    /// Its kind as network files write it; `input` for the input.
    pub kind: &'static str,
    /// Shape of its output.
    pub output: Shape,
    /// Trained numbers.
    pub parameters: usize,
    /// Multiply-accumulates of a forward pass (1 MAC = 2 FLOP).
    pub macs: u64,
    /// Rows and columns of the input that one output pixel sees, padding included.
    pub field: [usize; 2],
    /// Bytes of the output in f32.
    pub bytes: u64,
}

/// What all layers cost together, for one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Total {
    /// Trained numbers.
    pub parameters: usize,
    /// Multiply-accumulates of a forward pass (1 MAC = 2 FLOP).
    pub macs: u64,
    /// Bytes of all outputs in f32, as if each were kept; a plan keeps fewer.
    pub bytes: u64,
}

impl Network {
    /// What every place costs, in running order; the input is the first.
    pub fn rows(&self) -> Vec<Row> {
        let fields = self.fields();
        let mut parameters = vec![0; self.nodes().len()];
        for p in self.params() {
            parameters[p.node.index()] += p.range.len();
        }
        self.iter()
            .map(|(id, node)| {
                let field = fields[id.index()];
                Row {
                    name: node.name.clone(),
                    kind: node.layer.as_ref().map_or("input", Layer::kind),
                    output: node.shape,
                    parameters: parameters[id.index()],
                    macs: self.macs_of(id),
                    field: [field.h.size, field.w.size],
                    bytes: 4 * node.shape.len() as u64,
                }
            })
            .collect()
    }
}

/// The sum of the rows.
pub fn total(rows: &[Row]) -> Total {
    rows.iter().fold(Total::default(), |t, r| Total {
        parameters: t.parameters + r.parameters,
        macs: t.macs + r.macs,
        bytes: t.bytes + r.bytes,
    })
}

/// The rows as aligned columns, the sum below; what a layer has none of stays blank.
pub fn render(rows: &[Row]) -> String {
    let blank = |zero: bool, text: String| if zero { String::new() } else { text };
    let head = ["layer", "kind", "output", "parameters", "MACs", "field", "map"];
    let mut lines = vec![head.map(String::from)];
    for r in rows {
        lines.push([
            r.name.clone(),
            r.kind.into(),
            r.output.to_string(),
            blank(r.parameters == 0, thousands(r.parameters as u64)),
            blank(r.macs == 0, units(r.macs)),
            format!("{}x{}", r.field[0], r.field[1]),
            bytes(r.bytes),
        ]);
    }
    let t = total(rows);
    lines.push([
        "total".into(),
        String::new(),
        String::new(),
        thousands(t.parameters as u64),
        units(t.macs),
        String::new(),
        bytes(t.bytes),
    ]);
    align(&lines, 2)
}

/// The first `left` columns to the left, numbers to the right.
fn align<const N: usize>(lines: &[[String; N]], left: usize) -> String {
    let width = |i: usize| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(widths).enumerate().map(|(i, (cell, width))| {
            if i < left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// `1234567` as `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with three digits and k, M, G or T behind it: `1.81G`, `68.7M`.
pub fn units(n: u64) -> String {
    scaled(n as f64, 1000.0, ["", "k", "M", "G", "T"])
}

/// Bytes with three digits and their unit: `784 B`, `3.06 MiB`.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, [" B", " KiB", " MiB", " GiB", " TiB"])
}

fn scaled(mut n: f64, step: f64, names: [&str; 5]) -> String {
    let mut at = 0;
    // What would round to a full step is told in the next unit: 1.00M, not 1000k.
    while at + 1 < names.len() && n >= step - 0.5 {
        (n, at) = (n / step, at + 1);
    }
    let digits = match n {
        _ if at == 0 || n >= 99.95 => 0,
        n if n >= 9.995 => 1,
        _ => 2,
    };
    format!("{n:.digits$}{}", names[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;
    use crate::layers::Conv;

    fn net() -> Network {
        let mut b = Builder::new("n", Shape::new(28, 28, 1));
        b.conv(Conv::new(8, 5)).relu().max_pool(2, 2).dense(10);
        b.build().unwrap()
    }

    #[test]
    fn rows_add_up_to_the_network() {
        let (net, rows) = (net(), net().rows());
        let t = total(&rows);
        assert_eq!((t.parameters, t.macs), (net.parameters(), net.macs()));
        assert_eq!(t.parameters, 208 + 15_690);
        assert_eq!(t.macs, 28 * 28 * 25 * 8 + 1568 * 10);
        assert_eq!(t.bytes, 4 * (784 + 2 * 6272 + 1568 + 10));
        assert_eq!(rows[3].field, [6, 6]);
        assert_eq!(rows[4].field, [32, 32]);
    }

    #[test]
    fn a_table_reads_well() {
        let wanted = "\
layer      kind       output  parameters   MACs  field       map
input      input     28x28x1                       1x1  3.06 KiB
conv1      conv      28x28x8         208   157k    5x5  24.5 KiB
relu1      relu      28x28x8                       5x5  24.5 KiB
max-pool1  max-pool  14x14x8                       6x6  6.12 KiB
dense1     dense      1x1x10      15,690  15.7k  32x32      40 B
total                             15,898   172k         58.2 KiB
";
        assert_eq!(render(&net().rows()), wanted);
    }

    #[test]
    fn rows_are_data() {
        let json = serde_json::to_string(&net().rows()[1]).unwrap();
        let wanted = r#"{"name":"conv1","kind":"conv","output":[28,28,8],"parameters":208,"macs":156800,"field":[5,5],"bytes":25088}"#;
        assert_eq!(json, wanted);
    }

    #[test]
    fn numbers_keep_three_digits() {
        for (n, text) in
            [(0, "0"), (999, "999"), (1000, "1.00k"), (9_999, "10.0k"), (999_600, "1.00M")]
        {
            assert_eq!(units(n), text);
        }
        assert_eq!(units(1_814_073_344), "1.81G");
        assert_eq!(units(u64::MAX), "18446744T");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(3 << 30), "3.00 GiB");
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(11_689_512), "11,689,512");
    }
}
