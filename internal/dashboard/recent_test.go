package dashboard

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

func TestRecentKeepsTheLastOnes(t *testing.T) {
	b := inUse(t, one(0))
	first := b.number + 1
	b.refused("origin", mostEvents+50)
	events, last := b.Events(0)
	if len(events) != mostEvents || last != first+mostEvents+49 || events[0].Number != first+50 {
		t.Errorf("%d events from %d to %d, want %d from %d", len(events), events[0].Number, last, mostEvents, first+50)
	}
	if newer, _ := b.Events(last - 2); len(newer) != 2 {
		t.Errorf("%d events came after the last but two", len(newer))
	}
	if all, _ := b.Events(last + 1000); len(all) != mostEvents {
		t.Errorf("a page of another process gets %d events, want all", len(all))
	}
	for range mostChecks + 5 {
		b.AddCheck("10.0.0.1:80", time.Second, errors.New("no"))
	}
	if checks := b.checksOf("10.0.0.1:80"); len(checks) != mostChecks {
		t.Errorf("%d probes are kept, want %d", len(checks), mostChecks)
	}
	b.keepChecks(nil)
	if checks := b.checksOf("10.0.0.1:80"); len(checks) != 0 {
		t.Errorf("%d probes are kept of an upstream that has gone", len(checks))
	}
}

func TestRecentKeepsHostileTextPrintableAndShort(t *testing.T) {
	b := inUse(t, one(0))
	hostile := "\x1b[31m<script>\u202e\x00\xff" + strings.Repeat("a", 100<<10)
	b.HandshakeRefused(Event{Why: hostile, Handler: hostile, Upstream: hostile, ClientIP: hostile, Detail: hostile})
	b.AddCheck("10.0.0.1:80", 0, errors.New(hostile))
	events, _ := b.Events(0)
	e := events[0]
	for _, text := range []string{e.Why, e.Words, e.Handler, e.Upstream, e.ClientIP, e.Detail, b.checksOf("10.0.0.1:80")[0].Error} {
		if !printable.Is(text) || len(text) > 2*longestText {
			t.Errorf("what is kept is %q", text)
		}
	}
}

func TestAPageGetsAllEventsOfTheNextProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := inUse(t, one(0))
		old.refused("origin", 30)
		_, last := old.Events(0)
		time.Sleep(time.Second)
		restarted := inUse(t, one(0))
		restarted.refused("origin", 40)
		if events, now := restarted.Events(last); len(events) != 40 || now <= last {
			t.Errorf("%d events come after %d, the last is %d; want all 40", len(events), last, now)
		}
	})
}

func TestTextsEndWithACharacter(t *testing.T) {
	a := strings.Repeat("a", longestText-1)
	for s, want := range map[string]string{
		a:                  a,
		a + "b":            a + "b",
		a + "bc":           a + "b…",
		a + "é":            a + "…",
		a + "\x00":         a + "…",
		a[4:] + "\x00":     a[4:] + `\x00`,
		a[4:] + "\x00b":    a[4:] + `\x00b`,
		a[4:] + "\x00bcd":  a[4:] + `\x00b…`,
		a[4:] + "\u202eef": a[4:] + "…",
	} {
		if got := shown(s); got != want {
			t.Errorf("%q is shown as %q, want %q", s[len(s)-8:], got, want)
		}
	}
}

func TestNothingIsKeptWithoutAPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(one(1))
		first := b.number + 1
		b.refused("origin", 1)
		b.use()
		b.use() // a reload
		b.release()
		synctest.Wait()
		time.Sleep(2*sampleInterval + time.Second)
		synctest.Wait()
		b.mu.Lock()
		samples := len(b.history.totals)
		b.mu.Unlock()
		if events, _ := b.Events(0); len(events) != 0 || samples != 3 {
			t.Errorf("%d events and %d samples, want 0 and 3", len(events), samples)
		}
		b.refused("origin", 1)
		b.release()
		if events, last := b.Events(0); len(events) != 0 || last != first || b.history.totals != nil {
			t.Errorf("%d events are kept without a page", len(events))
		}
	})
}

func TestTheNextUserOfABoardFindsItInUse(t *testing.T) {
	b := New(one(0))
	for range 5000 {
		b.use()
		var both sync.WaitGroup
		both.Go(b.release)
		both.Go(b.use)
		both.Wait()
		if !b.Wanted() {
			t.Fatal("what happens is not kept, though a page is in force")
		}
		b.release()
	}
	if b.Wanted() {
		t.Error("what happens is kept for nobody")
	}
}
