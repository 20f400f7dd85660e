package frame

import (
	"bytes"
	"fmt"
	"testing"
)

var benchSizes = []struct {
	name string
	size int
}{
	{"0B", 0}, {"64B", 64}, {"1KiB", 1 << 10}, {"64KiB", 64 << 10},
}

// benchChunk returns about 32 KiB of frames, and at least one.
func benchChunk(masked bool, size int) (chunk []byte, frames int) {
	one := testFrame(masked, true, Binary, string(make([]byte, size)))
	frames = max(1, 32<<10/len(one))
	return bytes.Repeat(one, frames), frames
}

func reportPerFrame(b *testing.B, frames int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(frames), "ns/frame")
}

func benchEach(b *testing.B, run func(b *testing.B, s *Scanner, chunk []byte)) {
	for _, bs := range benchSizes {
		for _, masked := range []bool{false, true} {
			b.Run(fmt.Sprintf("size=%s/masked=%v", bs.name, masked), func(b *testing.B) {
				chunk, frames := benchChunk(masked, bs.size)
				s := NewScanner(masked)
				b.SetBytes(int64(len(chunk)))
				b.ReportAllocs()
				run(b, &s, chunk)
				reportPerFrame(b, frames)
				if s.Opaque() || !s.AtBoundary() {
					b.Error("got a scanner that lost its way, want a boundary")
				}
			})
		}
	}
}

// BenchmarkScan is the hot path: whole frames, nothing to inject.
func BenchmarkScan(b *testing.B) {
	benchEach(b, func(b *testing.B, s *Scanner, chunk []byte) {
		for b.Loop() {
			s.Scan(chunk)
		}
	})
}

// BenchmarkNext is the same with a look at every event.
func BenchmarkNext(b *testing.B) {
	benchEach(b, func(b *testing.B, s *Scanner, chunk []byte) {
		for b.Loop() {
			p := chunk
			for {
				n, ev := s.Next(p)
				if ev == None {
					break
				}
				p = p[n:]
			}
		}
	})
}

// BenchmarkScanOneFrame is one small frame per read, the usual chat.
func BenchmarkScanOneFrame(b *testing.B) {
	for _, split := range []string{"none", "header"} {
		b.Run("size=64B/split="+split, func(b *testing.B) {
			one := testFrame(true, true, Text, string(make([]byte, 64)))
			cut := len(one)
			if split == "header" {
				cut = 3
			}
			s := NewScanner(true)
			b.SetBytes(int64(len(one)))
			b.ReportAllocs()
			for b.Loop() {
				s.Scan(one[:cut])
				s.Scan(one[cut:])
			}
		})
	}
}

func BenchmarkApplyMask(b *testing.B) {
	for _, bs := range benchSizes[1:] {
		b.Run("size="+bs.name, func(b *testing.B) {
			p := make([]byte, bs.size)
			b.SetBytes(int64(bs.size))
			b.ReportAllocs()
			for b.Loop() {
				ApplyMask(p, rfcKey, 1)
			}
		})
	}
}

func BenchmarkAppendClose(b *testing.B) {
	for _, masked := range []bool{false, true} {
		b.Run(fmt.Sprintf("masked=%v", masked), func(b *testing.B) {
			var mask *[4]byte
			if masked {
				mask = &rfcKey
			}
			buf := make([]byte, 0, 131)
			b.ReportAllocs()
			for b.Loop() {
				buf = AppendClose(buf[:0], StatusServiceRestart, "restarting", mask)
			}
		})
	}
}
