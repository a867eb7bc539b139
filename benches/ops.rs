//! How fast is every op? Shapes of small models on the CPU, of large ones on a GPU where there is one.
//!
//! `cargo bench --bench ops -- matmul` runs one family, `-- cuda` the GPU alone. Products and attention report FLOP/s (criterion's
//! `elem/s`), the others bytes of operands a second. The CPU takes two minutes on two cores.
//!
//! On a GPU times are the GPU's own, and operands lie in as many copies as it takes to find none of them in its cache. A table at
//! the end compares each op with what the same GPU reaches at best: in the fastest product measured, and in a copy of memory.

#[allow(dead_code)]
mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flanrt::cpu::Cpu;
use flanrt::cuda::Cuda;
use flanrt::ops::Form;
use flanrt::tensor::DType;
use std::cell::RefCell;
use std::time::Duration;
use support::cases::{self, Case, Work};
use support::{Bench, Ready};

/// Microseconds a launch of every case that ran, with the case's name.
type Times = RefCell<Vec<(String, Work, f64)>>;

fn config() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .nresamples(2000)
        .without_plots()
}

/// Has criterion measure `list` on `bench`; operands are made for cases that are chosen alone.
fn measure(c: &mut Criterion, bench: &Bench, prefix: &str, list: &[Case], times: &Times) {
    for case in list {
        let mut group = c.benchmark_group(case.op);
        group.throughput(match case.work {
            Work::Flop(n) => Throughput::Elements(n),
            Work::Bytes(n) => Throughput::Bytes(n),
        });
        let mut ready = None;
        let last = RefCell::new(None);
        group.bench_function(BenchmarkId::from_parameter(format!("{prefix}{}", case.name)), |b| {
            let ready = ready.get_or_insert_with(|| Ready::new(bench, case));
            b.iter_custom(|n| {
                let time = bench.time(|| ready.run(n));
                *last.borrow_mut() = Some(time.as_secs_f64() * 1e6 / n as f64);
                time
            });
        });
        if let Some(us) = last.take() {
            times.borrow_mut().push((format!("{} {}", case.op, case.name), case.work, us));
        }
        group.finish();
    }
}

fn cpu(c: &mut Criterion) {
    let bench = Bench::Host(Box::new(Cpu::new(0).expect("threads")));
    let list = cases::all(&cases::SMALL, &[DType::F32, DType::BF16], 1 << 22);
    measure(c, &bench, "", &list, &Times::default());
}

fn cuda(c: &mut Criterion) {
    let bench = match Cuda::new(0) {
        Ok(device) => Bench::Gpu(device),
        Err(error) => return println!("no GPU to measure: {error}"),
    };
    let times = Times::default();
    let mut list = vec![cases::matmul("square", Form::NT, DType::BF16, DType::F32, 8192, 8192, 8192)];
    list.push(cases::copy(1 << 29));
    list.extend(cases::all(&cases::LARGE, &[DType::BF16], 1 << 28));
    measure(c, &bench, "cuda ", &list, &times);
    table(&times.take());
}

/// A line a case: time, rate, and its share of the best rate of its sort.
fn table(times: &[(String, Work, f64)]) {
    let rate = |work: &Work, us: f64| match work {
        Work::Flop(n) => (*n as f64 / us / 1e6, "TFLOP/s"),
        Work::Bytes(n) => (*n as f64 / us / 1e3, "GB/s"),
    };
    let products = times.iter().filter(|(name, ..)| name.starts_with("matmul"));
    let copies = times.iter().filter(|(name, ..)| name.starts_with("copy"));
    let best = |which: &mut dyn Iterator<Item = &(String, Work, f64)>| {
        which.map(|(_, work, us)| rate(work, *us).0).fold(0.0, f64::max)
    };
    let ceilings = [best(&mut products.into_iter()), best(&mut copies.into_iter())];
    println!(
        "\nshare of the best product ({:.0} TFLOP/s) or of a copy ({:.0} GB/s)",
        ceilings[0], ceilings[1]
    );
    for (name, work, us) in times {
        let (rate, unit) = rate(work, *us);
        let ceiling = ceilings[usize::from(matches!(work, Work::Bytes(_)))];
        let share = if ceiling > 0.0 { format!("{:4.2}", rate / ceiling) } else { "   -".into() };
        println!("{us:>11.1} us  {rate:>7.1} {unit:<7}  {share}  {name}");
    }
}

criterion_group! {
    name = ops;
    config = config();
    targets = cpu, cuda
}
criterion_main!(ops);
