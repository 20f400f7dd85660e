package relay

import (
	"fmt"
	"io"
	"testing"
)

// BenchmarkRelay measures the echo of a message through a relay: two passes,
// which the bytes of both are counted for.
func BenchmarkRelay(b *testing.B) {
	all := openers(b)
	sizes := []struct {
		name  string
		bytes int
	}{{"64B", 64}, {"1KiB", 1 << 10}, {"64KiB", 64 << 10}}
	for name, run := range implementations {
		for _, size := range sizes {
			for kind, tls := range map[string]bool{"tcp": false, "tls": true} {
				b.Run(fmt.Sprintf("relay=%s/size=%s/tls=%t", name, size.name, tls), func(b *testing.B) {
					r := newRig(b, run, all[kind], all["tcp"])
					r.start()
					benchmarkEcho(b, r, size.bytes)
				})
			}
		}
	}
}

func benchmarkEcho(b *testing.B, r *rig, size int) {
	b.Helper()
	p, q := []byte(message(size)), make([]byte, size)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		buf := make([]byte, size)
		for {
			if _, err := io.ReadFull(r.upstream.Conn, buf); err != nil {
				return
			}
			if _, err := r.upstream.Write(buf); err != nil {
				return
			}
		}
	}()
	b.SetBytes(int64(2 * size))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.client.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(r.client.Conn, q); err != nil {
			b.Fatal(err)
		}
	}
	r.relay.Abort()
	<-answered
}

// BenchmarkBulk measures a transfer in one direction.
func BenchmarkBulk(b *testing.B) {
	all := openers(b)
	for name, run := range implementations {
		for kind, tls := range map[string]bool{"tcp": false, "tls": true} {
			b.Run(fmt.Sprintf("relay=%s/tls=%t", name, tls), func(b *testing.B) {
				r := newRig(b, run, all[kind], all["tcp"])
				r.start()
				const block = 1 << 20
				p := []byte(message(block))
				poured := make(chan struct{})
				b.SetBytes(block)
				b.ReportAllocs()
				go func() {
					defer close(poured)
					for {
						if _, err := r.client.Write(p); err != nil {
							return
						}
					}
				}()
				q := make([]byte, block)
				for b.Loop() {
					if _, err := io.ReadFull(r.upstream.Conn, q); err != nil {
						b.Fatal(err)
					}
				}
				r.relay.Abort()
				<-poured
			})
		}
	}
}
