//! How fast is every op? Shapes of small models on the CPU, of large ones on a GPU where there is one.
//!
//! `cargo bench --bench ops -- matmul` runs one family, `-- cuda` the GPU alone. Products and attention report FLOP/s (criterion's
//! `elem/s`), the others bytes of operands a second. The CPU takes two minutes on two cores.
//!
//! A table at the end compares each op with what the same machine reaches at best: the CPU in multiply-adds in registers (of
//! bf16 pairs for operands in bf16, where it has them) and in a copy of memory, both measured in the same run; the GPU in the
//! fastest product measured and in a copy. On a GPU times are its own, and operands lie in as many copies as it takes to find
//! none of them in its cache. On a CPU small operands stay in caches: bytes then go faster than in a copy.

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
use support::{Bench, Ready, ceiling};

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
    let times = Times::default();
    measure(c, &bench, "", &list, &times);
    let times = times.take();
    if times.is_empty() {
        return;
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let (plain, copy) = (ceiling::f32_flops(threads), ceiling::copy_bytes(threads));
    let pairs = ceiling::bf16_flops(threads).unwrap_or(plain);
    println!(
        "\nshare of multiply-adds in registers (f32 {:.0}, bf16 {:.0} GFLOP/s) or of a copy ({:.0} GB/s)",
        plain / 1e9,
        pairs / 1e9,
        copy / 1e9
    );
    table(&times, |name, work| match work {
        Work::Bytes(_) => copy,
        Work::Flop(_) if name.contains("bf16") => pairs,
        Work::Flop(_) => plain,
    });
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
    let times = times.take();
    let best = |op: &str| {
        let those = times.iter().filter(|(name, ..)| name.starts_with(op));
        those.map(|(_, work, us)| rate(work, *us)).fold(0.0, f64::max)
    };
    let (product, copy) = (best("matmul"), best("copy"));
    println!(
        "\nshare of the best product ({:.0} TFLOP/s) or of a copy ({:.0} GB/s)",
        product / 1e12,
        copy / 1e9
    );
    table(&times, |_, work| if matches!(work, Work::Bytes(_)) { copy } else { product });
}

/// Operations or bytes a second.
fn rate(work: &Work, us: f64) -> f64 {
    let (Work::Flop(n) | Work::Bytes(n)) = work;
    *n as f64 / us * 1e6
}

/// A line a case: time, rate, and its share of the ceiling of its sort.
fn table(times: &[(String, Work, f64)], ceiling: impl Fn(&str, &Work) -> f64) {
    for (name, work, us) in times {
        let (rate, ceiling) = (rate(work, *us), ceiling(name, work));
        let unit = if matches!(work, Work::Flop(_)) { "GFLOP/s" } else { "GB/s" };
        let share = if ceiling > 0.0 { format!("{:4.2}", rate / ceiling) } else { "   -".into() };
        println!("{us:>11.1} us  {:>9.1} {unit:<7}  {share}  {name}", rate / 1e9);
    }
}

criterion_group! {
    name = ops;
    config = config();
    targets = cpu, cuda
}
criterion_main!(ops);
