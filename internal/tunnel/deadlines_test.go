package tunnel

import (
	"sync"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// expiring runs a test with a tunnel that expires after a time.
func expiring(t *testing.T, policy Options, after, spread time.Duration, test func(m *memoryTunnel)) {
	t.Helper()
	inMemory(t, policy, func(m *memoryTunnel) {
		m.Limit(Deadline{At: m.live.Now().Add(after), Reason: Expired, Code: 4001, Text: "expired", Spread: spread})
		test(m)
	})
}

// expectExpired has the client see its Close, and answer it.
func (m *memoryTunnel) expectExpired(after time.Duration) {
	m.t.Helper()
	m.others.Go(m.client.listen)
	m.waitDone()
	m.expectAge(after + closeAnswerTime + lingerTime)
	m.expectReason(Expired)
	m.expectClose(Proxy, 4001)
}

func TestATunnelExpires(t *testing.T) {
	expiring(t, Options{}, 20*time.Minute, 0, func(m *memoryTunnel) { m.expectExpired(20 * time.Minute) })
}

func TestATunnelExpiresInItsPartOfTheLeeway(t *testing.T) {
	expiring(t, Options{}, 20*time.Minute, 20*time.Second, func(m *memoryTunnel) { m.expectExpired(20*time.Minute + 20*time.Second) })
}

func TestTheEarliestDeadlineCounts(t *testing.T) {
	expiring(t, Options{MaxLifetime: 40 * time.Minute}, 20*time.Minute, 0, func(m *memoryTunnel) { m.expectExpired(20 * time.Minute) })
	expiring(t, Options{MaxLifetime: 20 * time.Minute}, 2*20*time.Minute, 0, func(m *memoryTunnel) {
		m.others.Go(m.client.listen)
		m.expectReason(MaxLifetime)
	})
}

func TestSleepCountsForDeadlinesOnly(t *testing.T) {
	expiring(t, Options{Idle: 50 * time.Minute}, time.Hour, 0, func(m *memoryTunnel) {
		const slept = 30 * time.Minute
		time.Sleep(time.Minute)
		before := m.Snapshot().Expires
		m.slept.Store(int64(slept))
		if after := m.Snapshot().Expires; before.Sub(after) != slept {
			t.Errorf("it expires at %v, and after the sleep at %v", before, after)
		}
		m.expectExpired(30 * time.Minute)
	})
}

func TestRenewalMakesATunnelExpireLater(t *testing.T) {
	const longest = 30 * time.Minute
	expiring(t, Options{}, 10*time.Minute, time.Second, func(m *memoryTunnel) {
		for _, step := range []struct {
			after, limit time.Duration
			renewed      bool
			want         time.Duration
		}{
			{5 * time.Minute, longest, false, 10 * time.Minute}, // it never becomes less
			{10 * time.Minute, longest, false, 10 * time.Minute},
			{20 * time.Minute, longest, true, 20 * time.Minute},
			{20 * time.Minute, longest, false, 20 * time.Minute},
			{90 * time.Minute, longest, true, longest - time.Second},
			{90 * time.Minute, longest, false, longest - time.Second},
			{40 * time.Minute, 0, true, 40 * time.Minute},
		} {
			if got := m.Renew(m.opened.Add(step.after), step.limit); got != step.renewed {
				t.Errorf("renewed for %v: %t, want %t", step.after, got, step.renewed)
			}
			if got := m.Snapshot().Expires.Sub(m.opened); got != step.want {
				t.Errorf("renewed for %v, it expires after %v, want %v", step.after, got, step.want)
			}
		}
		m.expectExpired(40*time.Minute + time.Second)
		if m.Renew(time.Now().Add(time.Hour), 0) {
			t.Error("a tunnel that has ended is renewed")
		}
	})
	inMemory(t, Options{MaxLifetime: 10 * time.Minute}, func(m *memoryTunnel) {
		if m.Renew(time.Now().Add(2*time.Hour), 0) || !m.Snapshot().Expires.IsZero() {
			t.Error("a tunnel that does not expire is renewed")
		}
		m.others.Go(m.client.listen)
		m.expectReason(MaxLifetime)
	})
}

// TestATunnelThatExpiresInsideOfAFrame has the Close come after the frame.
func TestATunnelThatExpiresInsideOfAFrame(t *testing.T) {
	expiring(t, Options{}, 10*time.Second, 0, func(m *memoryTunnel) {
		whole := m.upstream.frame(testbed.Text, "a frame that comes in two parts")
		m.upstream.send(whole[:10])
		m.client.expect(whole[:10])
		time.Sleep(11 * time.Second)
		m.upstream.send(whole[10:])
		m.client.expect(whole[10:] + string(frame.AppendClose(nil, 4001, "expired", nil)))
		m.expectReason(Expired)
	})
}

// Whoever asks for a list asks for that of all tunnels.
func TestAListAsksOnceHowLongTheMachineHasSlept(t *testing.T) {
	expiring(t, Options{}, 10*time.Minute, 0, func(m *memoryTunnel) {
		more := &memoryTunnel{t: t, live: m.live, reports: make(chan Outcome, 2), began: time.Now()}
		more.open(Options{})
		defer func() {
			_ = more.client.Close()
			_ = more.upstream.Close()
			more.waitDone()
		}()
		more.Limit(Deadline{At: m.live.Now().Add(time.Hour), Reason: Expired})
		m.slept.Store(int64(time.Minute))
		asked := 0
		m.live.CountSleep(func() time.Duration { asked++; return time.Duration(m.slept.Load()) })
		found := make(map[time.Duration]int)
		for s := range m.live.Snapshots(func(a *About) bool { return a.ClientIP == "192.0.2.1" }) {
			found[time.Until(s.Expires)]++
		}
		if asked != 1 || len(found) != 2 || found[9*time.Minute] != 1 || found[59*time.Minute] != 1 {
			t.Errorf("asked %d times, they expire after %v; want once, 9 and 59 minutes", asked, found)
		}
		for range m.live.Snapshots(func(*About) bool { return false }) {
			t.Error("a tunnel that nobody wants is in the list")
		}
		for range m.live.Snapshots(func(*About) bool { return true }) {
			break // nothing more may come
		}
	})
}

func TestRatesFade(t *testing.T) {
	var r rates
	r.note(0, 1000, 10)
	for _, after := range []time.Duration{0, 10 * time.Second, time.Hour} {
		bytes, messages := r.now(after)
		want := 100 * fading(after)
		if bytes > want*1.01 || bytes < want*0.9 || messages > want/100*1.01 || messages < want/100*0.9 {
			t.Errorf("%v later the rates are %v and %v, want %v", after, bytes, messages, want)
		}
	}
}

// TestNoLimitIsLostAmongRenewals has others renew a tunnel while it gets limits.
func TestNoLimitIsLostAmongRenewals(t *testing.T) {
	live := NewRegistry(nil)
	held, at := registered(live), live.Now().Add(time.Hour)
	held.Limit(Deadline{At: at, Reason: Expired})
	var others sync.WaitGroup
	others.Go(func() {
		for i := range 2000 {
			held.Renew(at.Add(time.Duration(i)), 0)
		}
	})
	const limits = 500
	for range limits {
		held.Limit(Deadline{At: at, Reason: MaxLifetime})
	}
	others.Wait()
	if got := len(*held.deadlines.Load()); got != 1+limits {
		t.Errorf("it has %d limits, want %d", got, 1+limits)
	}
}
