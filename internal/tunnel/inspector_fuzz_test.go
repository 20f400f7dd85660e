package tunnel

import (
	"bytes"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// streamFrom makes a stream of frames from a recipe of two bytes for each, and
// returns it with and without pongs to our pings. What follows a Close or a
// violation is not looked at any more.
func streamFrom(recipe []byte, masked bool, nonce []byte) (with, without []byte) {
	open, followed := false, true
	for ; len(recipe) >= 2; recipe = recipe[2:] {
		size := int(recipe[1])
		payload := bytes.Repeat(recipe[1:2], size)
		f := testbed.Frame{Fin: true, MaskKey: [4]byte{1, 2, 3, recipe[0]}}
		ours := false
		switch recipe[0] % 9 {
		case 0, 1: // a message, or the end of one
			f.Opcode, f.Payload = testbed.Text, payload
		case 2:
			f.Opcode, f.Payload, f.Fin = testbed.Binary, bytes.Repeat(payload, 30), false
		case 3:
			f.Opcode, f.Payload = testbed.Ping, payload[:size/3]
		case 4:
			f.Opcode, f.Payload = testbed.Pong, payload[:size/3]
		case 5: // nearly ours
			f.Opcode, f.Payload = testbed.Pong, append(bytes.Clone(nonce), 0, 0, 0, recipe[1])
			f.Payload[size%nonceSize] ^= 0x55
		case 6:
			f.Opcode, f.Payload = testbed.Pong, append(bytes.Clone(nonce), 0, 0, 0, recipe[1])
			ours = followed
		case 7:
			f.Opcode = testbed.Close
			if size < 250 {
				continue // seldom
			}
		case 8:
			f.Opcode = 3
			if size < 250 {
				continue
			}
		}
		if open && (f.Opcode == testbed.Text || f.Opcode == testbed.Binary) {
			f.Opcode = testbed.Continuation
		}
		if f.Opcode < testbed.Close {
			open = !f.Fin
		}
		raw := f.Bytes(masked)
		with = append(with, raw...)
		if !ours {
			without = append(without, raw...)
		}
		followed = followed && f.Opcode != testbed.Close && f.Opcode != 3
	}
	return with, without
}

// inspectAll shows a stream to a tunnel in chunks, as a relay does, and returns
// what it lets through. Behind every other chunk it skips what it may.
func inspectAll(tb testing.TB, t *Tunnel, d relay.Direction, stream, cuts []byte) (out []byte) {
	tb.Helper()
	for i := 0; len(stream) > 0; i++ {
		n := len(stream)
		if len(cuts) > 0 {
			n = min(n, 1+int(cuts[i%len(cuts)]))
		}
		ahead := uint64(0)
		for p := stream[:n]; len(p) > 0; {
			v := t.Inspect(d, p)
			ahead = v.Ahead
			if v.Pass+v.Drop == 0 || v.Pass+v.Drop > len(p) || v.Shut || v.Wait != 0 {
				tb.Fatalf("got %+v for %q", v, p)
			}
			out = append(append(out, p[:v.Pass]...), v.Insert...)
			p = p[v.Pass+v.Drop:]
		}
		stream = stream[n:]
		if skip := int(min(ahead, uint64(len(stream)))); i%2 == 1 && skip > 0 {
			t.Skip(d, skip)
			out, stream = append(out, stream[:skip]...), stream[skip:]
		}
	}
	return out
}

// FuzzGuard checks that, however a stream is cut, all of it passes but the pongs
// to our own pings.
func FuzzGuard(f *testing.F) {
	f.Add([]byte{6, 1}, []byte{0}, true)
	f.Add([]byte{0, 5, 6, 1, 6, 2, 3, 9, 5, 0, 6, 3, 0, 0, 4, 24, 6, 4}, []byte{}, false)
	f.Add([]byte{2, 5, 6, 1, 2, 0, 5, 7, 1, 3, 6, 0}, []byte{2, 0, 6}, true)
	f.Add([]byte{6, 1, 7, 255, 6, 2, 0, 4}, []byte{4}, true)
	f.Add([]byte{6, 1, 8, 255, 6, 2, 0, 4}, []byte{3}, false)
	f.Fuzz(func(t *testing.T, recipe, cuts []byte, masked bool) {
		d := relay.UpstreamToClient
		if masked {
			d = relay.ClientToUpstream
		}
		one := New(About{}, &Options{Ping: time.Second}, nil, nil)
		one.inspector.directions[d].pinged.Store(true)
		with, without := streamFrom(recipe, masked, one.inspector.nonce[:])
		if got := inspectAll(t, one, d, with, cuts); !bytes.Equal(got, without) {
			t.Errorf("%q\nbecame %q\nnot    %q", with, got, without)
		}
		if got := one.passed[d]; got != uint64(len(without)) {
			t.Errorf("%d bytes count as passed, want %d", got, len(without))
		}
	})
}
