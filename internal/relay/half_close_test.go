package relay

import (
	"testing"
)

func TestRelayPropagatesHalfClose(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.start()
		w.from.expectEcho(w.to, "before")
		w.from.closeWrite()
		w.to.expectEnd()
		if end := w.waitEnded(w.d); end != (End{}) {
			t.Errorf("the direction ended with %+v, want no error", end)
		}

		for range 3 {
			w.to.send("still there")
			w.from.expect("still there")
		}
		if w.hasEnded(w.d.Opposite()) {
			t.Error("the other direction ended too")
		}
		w.to.closeWrite()
		w.from.expectEnd()
		w.waitDone()
		if end := w.waitEnded(w.d.Opposite()); end != (End{}) {
			t.Errorf("the other direction ended with %+v, want no error", end)
		}
	})
}

func TestRelayDeliversAllBeforeTheEnd(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		const size = 8 << 20
		w.start()
		sent := w.from.pour(size)
		got := w.to.gather(size)
		if sent, got := <-sent, <-got; sent != got {
			t.Errorf("checksum %#x, want %#x", got, sent)
		}
		w.from.send("the last words")
		w.from.closeWrite()
		w.to.expect("the last words")
		w.to.expectEnd()
	})
}

func TestRelayPropagatesTheEndOfSilentPeers(t *testing.T) {
	everywhere(t, allKinds, func(t *testing.T, r *rig) {
		r.start()
		r.client.closeWrite()
		r.upstream.closeWrite()
		r.client.expectEnd()
		r.upstream.expectEnd()
		r.waitDone()
	})
}

func TestRelayEndsWhenBothPeersClose(t *testing.T) {
	everywhere(t, allKinds, func(t *testing.T, r *rig) {
		r.start()
		r.client.expectEcho(r.upstream, "hello")
		_ = raw(r.client.Conn).Close()
		_ = raw(r.upstream.Conn).Close()
		r.waitDone()
	})
}

// Many TLS peers close their socket without a close_notify.
func TestRelayTakesTheEndOfTheSocketForTheEndOfTLS(t *testing.T) {
	eachWay(t, []string{"tls"}, func(t *testing.T, w way) {
		w.start()
		w.from.expectEcho(w.to, "hello")
		_ = raw(w.from.Conn).Close()
		if end := w.waitEnded(w.d); end != (End{}) {
			t.Errorf("the direction ended with %+v, want no error", end)
		}
		w.to.expectEnd()
	})
}
