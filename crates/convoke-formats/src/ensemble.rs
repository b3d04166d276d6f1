//! Several networks as one, whose probabilities are the mean of theirs (InceptionTime: Ismail Fawaz et al. 2020,
//! section 3.1).

use crate::model::ModelFile;
use convoke_engine::layers::{Add, Function, FunctionKind, Rescale, Softmax};
use convoke_engine::{Builder, NodeId};

/// Added to each mean probability, so that its logarithm is a number.
const LEAST: f32 = 1e-12;

/// One model of several over the same input and classes. Its outputs are the logarithms of the mean of the members'
/// probabilities, so that a softmax of them is that mean; its layers are named `member1.…` and so on.
///
/// # Errors
/// When there are none, they differ in input, classes or preprocessing, or one has further outputs.
pub fn ensemble(members: &[ModelFile]) -> Result<ModelFile, String> {
    let first = members.first().ok_or("an ensemble needs members")?;
    let input = first.network.input_shape();
    let mut b = Builder::new(&format!("{}-x{}", first.network.name(), members.len()), input);
    let start = b.here();
    let (mut params, mut state, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for (k, m) in members.iter().enumerate() {
        let same = m.network.input_shape() == input
            && m.classes == first.classes
            && m.preprocess == first.preprocess;
        if !same || !m.network.heads().is_empty() {
            return Err(format!(
                "member {} has another input, classes, preprocessing or heads",
                k + 1
            ));
        }
        b.scope(&format!("member{}", k + 1));
        let mut places = vec![start];
        for node in &m.network.nodes()[1..] {
            let Some(layer) = node.layer.clone() else { continue };
            let inputs: Vec<NodeId> = node.inputs.iter().map(|i| places[i.index()]).collect();
            places.push(b.named(&node.name, layer, &inputs).here());
        }
        b.at(places[m.network.output().index()]).then("probabilities", Softmax {});
        ends.push(b.here());
        params.extend_from_slice(&m.params);
        state.extend_from_slice(&m.state);
    }
    b.scope("");
    match ends[..] {
        [one] => b.at(one),
        _ => b.named("sum", Add {}, &ends),
    };
    b.then("mean", Rescale { factor: 1.0 / members.len() as f32, offset: LEAST });
    b.then("log", Function { of: FunctionKind::Log, a: 0.0, b: 0.0 });
    let network = b.build().map_err(|e| e.to_string())?;
    let mut facts = first.facts.clone();
    facts.remove("top1");
    facts.insert("members".into(), members.len().to_string());
    let model =
        ModelFile { network, params, state, facts, extra: Default::default(), ..first.clone() };
    model.check()?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_data::Preprocess;
    use convoke_engine::{Plan, PlanOptions, Session, Shape, layers::Conv};

    fn member(seed: u64, filters: usize) -> ModelFile {
        let mut b = Builder::new("m", Shape::new(6, 6, 1));
        b.conv(Conv::new(filters, 3)).batch_norm().relu().global_mean_pool().dense(3);
        let network = b.build().unwrap();
        let mut session =
            Session::new(Plan::compile(&network, &PlanOptions::predict(1, 1)).unwrap()).unwrap();
        session.init(seed);
        ModelFile {
            classes: ["a", "b", "c"].map(String::from).to_vec(),
            preprocess: Preprocess::plain(6, 6, 1),
            task: "classify".into(),
            params: session.params().to_vec(),
            state: session.state().to_vec(),
            facts: Default::default(),
            extra: Default::default(),
            network,
        }
    }

    fn outputs(m: &ModelFile) -> Vec<f32> {
        let mut s =
            Session::new(Plan::compile(&m.network, &PlanOptions::predict(2, 1)).unwrap()).unwrap();
        s.set_params(&m.params).unwrap();
        s.set_state(&m.state).unwrap();
        s.input_mut().iter_mut().enumerate().for_each(|(i, v)| *v = (i as f32 * 0.7).sin());
        s.predict(2).unwrap().to_vec()
    }

    fn softmax(row: &[f32]) -> Vec<f64> {
        let sum: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
        row.iter().map(|v| f64::from(*v).exp() / sum).collect()
    }

    #[test]
    fn probabilities_are_the_mean_of_the_members() {
        let members = [member(1, 4), member(2, 4), member(3, 7)];
        let e = ensemble(&members).unwrap();
        let said = outputs(&e);
        let all: Vec<Vec<f32>> = members.iter().map(outputs).collect();
        for row in 0..2 {
            let got = softmax(&said[row * 3..][..3]);
            for c in 0..3 {
                let mean = all.iter().map(|o| softmax(&o[row * 3..][..3])[c]).sum::<f64>() / 3.0;
                assert!((got[c] - mean).abs() < 1e-6, "{got:?} {mean}");
            }
        }
    }

    #[test]
    fn members_must_be_alike_and_the_whole_is_a_file() {
        let mut other = member(2, 4);
        other.classes[0] = "z".into();
        assert!(ensemble(&[member(1, 4), other]).unwrap_err().contains("member 2"));
        assert!(ensemble(&[]).is_err());
        let e = ensemble(&[member(1, 4), member(2, 4)]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.safetensors");
        e.save(&path).unwrap();
        assert_eq!(ModelFile::load(&path).unwrap(), e);
    }
}
