//! ONNX: graphs of other tools in, networks out.
//!
//! [`Model`] reads a file and runs its graph as it stands, op by op, with the plain interpreter in `eval`; or
//! makes a network of it, with its weights ([`Model::to_network`], [`Model::to_model`]), which is fast and trains.

mod eval;
mod export;
mod graph;
mod import;
mod lower;
#[allow(dead_code)] // fields that neither the reader nor the writer uses
mod proto;
mod read;
mod tensor;

pub use export::{ExportOptions, OPSETS, export, to_bytes};
pub use graph::Port;
pub use lower::Imported;
pub use tensor::{Data, Kind, Tensor};

use crate::ModelError;
use crate::weights::one_line;
use eval::Budget;
use graph::Graph;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// A result whose error is one line that says what is wrong, without the file.
pub(crate) type Said<T> = Result<T, String>;

/// Larger files are refused; the format itself allows 2 GiB, and larger weights lie beside.
const MAX_BYTES: u64 = 2 << 30;

/// A graph of another tool.
pub struct Model {
    graph: Graph,
    metadata: BTreeMap<String, String>,
}

impl Model {
    /// Opens a file. External data is read from the file's folder or below, nowhere else.
    ///
    /// # Errors
    /// When it cannot be read, is no model, is damaged, or holds what is not supported.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: path.into(), source };
        let wrong = |what: String| ModelError::File { path: path.into(), what };
        let facts = std::fs::metadata(path).map_err(io)?;
        if !facts.is_file() || facts.len() > MAX_BYTES {
            return Err(wrong("is no ONNX model".into()));
        }
        let bytes = std::fs::read(path).map_err(io)?;
        Self::read(bytes, Some(path.parent().unwrap_or(Path::new("")))).map_err(wrong)
    }

    /// The same from memory; external data is refused.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        Self::read(bytes.to_vec(), None)
    }

    fn read(bytes: Vec<u8>, folder: Option<&Path>) -> Said<Self> {
        let contents = read::read(bytes, folder).map_err(|e| one_line(&e))?;
        Ok(Model { graph: contents.graph, metadata: contents.metadata })
    }

    /// The same graph with its last inputs fixed.
    ///
    /// # Errors
    /// When there are more than the graph has inputs.
    pub fn with_constants(mut self, values: &[Tensor]) -> Result<Self, String> {
        let inputs = &mut self.graph.inputs;
        let first = inputs.len().checked_sub(values.len());
        let first = first
            .ok_or_else(|| format!("{} constants for {} inputs", values.len(), inputs.len()))?;
        for (port, value) in inputs.split_off(first).into_iter().zip(values) {
            self.graph.constants.insert(port.name, Arc::new(value.clone()));
        }
        Ok(self)
    }

    /// What a caller gives, in order.
    pub fn inputs(&self) -> &[Port] {
        &self.graph.inputs
    }

    /// What a caller gets, in order.
    pub fn outputs(&self) -> &[Port] {
        &self.graph.outputs
    }

    /// Facts by name that the file carries.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Runs the graph op by op: slow and plain, with sums in f64.
    ///
    /// # Errors
    /// When an input is missing, or the first node that cannot run, by name.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
        self.run_within(inputs, Budget::running())
    }

    /// The same for files that strangers made: ends with an error after so many numbers are computed.
    ///
    /// # Errors
    /// As [`Model::run`], and when it is too much work.
    pub fn run_bounded(&self, inputs: &[Tensor], work: u64) -> Result<Vec<Tensor>, String> {
        self.run_within(inputs, Budget::small(work))
    }

    /// Makes a network of the graph, with its weights. `size` are rows and columns of the input where the graph
    /// leaves them open (or others than it names, where its ops allow).
    ///
    /// # Errors
    /// The first node that stands in the way, by name. [`Model::run`] may still run the graph.
    pub fn to_network(&self, size: Option<(usize, usize)>) -> Result<Imported, String> {
        let name = if self.graph.name.is_empty() { "network" } else { &self.graph.name };
        lower::lower(&self.graph, name, size).map_err(|e| one_line(&e))
    }

    fn run_within(&self, inputs: &[Tensor], budget: Budget) -> Result<Vec<Tensor>, String> {
        let wanted = &self.graph.inputs;
        if inputs.len() != wanted.len() {
            let names: Vec<_> = wanted.iter().map(|p| one_line(&p.name)).collect();
            return Err(format!("{} inputs were given for {names:?}", inputs.len()));
        }
        let given = wanted.iter().zip(inputs).map(|(p, t)| (p.name.clone(), Arc::new(t.clone())));
        let made = eval::run(&self.graph, given.collect::<HashMap<_, _>>(), &budget);
        let made = made.map_err(|e| one_line(&e))?;
        Ok(made.into_iter().map(|t| Arc::try_unwrap(t).unwrap_or_else(|t| (*t).clone())).collect())
    }
}

impl Tensor {
    /// Reads a tensor file as ONNX's test data have them (`input_0.pb`): its name and numbers.
    ///
    /// # Errors
    /// When it is no tensor, is damaged, or of a type that is not supported.
    pub fn from_file(bytes: &[u8]) -> Result<(String, Tensor), String> {
        read::tensor(bytes)
    }
}
