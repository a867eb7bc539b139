//! Memory: what is allocated is zero, what is written is read, what is zeroed is zero and nothing else is.

use crate::harness::{DTYPES, Dense, Strided, everywhere};
use flanrt::arena::Arena;
use flanrt::error::Kind;
use flanrt::tensor::DType;

#[test]
fn fresh_memory_is_zero_and_aligned() {
    everywhere("alloc", |s| {
        let layout = |arena: &mut Arena| {
            [
                arena.take("a", DType::BF16, 31, 33),
                arena.take("b", DType::F32, 123, 7),
                arena.take("a", DType::U32, 1, 0),
            ]
        };
        let (arena, parts) = Arena::carve(s.device, layout).expect("memory");
        for x in parts {
            assert!(x.addr() % 64 == 0 && s.bits(x).iter().all(|&b| b == 0));
        }
        // 1023 and 861 elements, each rounded up to a multiple of 64.
        assert_eq!((arena.used(), arena.entries().len()), (1024 * 2 + 896 * 4, 2));
        assert_eq!(s.device.alloc(1 << 60).err().map(|e| e.kind), Some(Kind::Memory));
        assert_eq!(s.device.alloc(usize::MAX).err().map(|e| e.kind), Some(Kind::Memory));
        vec![]
    });
}

#[test]
fn zero_clears_a_view_and_nothing_else() {
    for dtype in DTYPES.into_iter().chain([DType::U32]) {
        for (rows, cols) in [(0, 5), (1, 1), (31, 33), (3, 0), (2, 70_001)] {
            everywhere("zero", |s| {
                let views = [Dense, Strided].map(|lay| s.blank(lay, dtype, rows, cols));
                for x in views {
                    s.device.zero(x);
                    assert!(s.bits(x).iter().all(|&b| b == 0), "{x:?}");
                }
                vec![]
            });
        }
    }
}
