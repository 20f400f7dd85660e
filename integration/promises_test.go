package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// renewals is where tunnels are renewed.
const renewals = `handle /renew {
	websocket_renew {
		label user {http.request.uri.query.user}
		expires {http.request.uri.query.exp}
		max 2h
	}
	respond "{http.websocket_renew.tunnels}"
}`

// promises are all that tunnels are promised, but for those that all sites have to see
// at once: counters, reloads and the exit.
var promises = map[string]promise{
	"messages arrive":               {keep: messagesArrive},
	"any status, client first":      {keep: anyStatusOfTheClient},
	"any status, upstream first":    {keep: anyStatusOfTheUpstream},
	"client ends without a Close":   {keep: clientEndsWithoutClose},
	"upstream ends without a Close": {keep: upstreamEndsWithoutClose},
	"client resets":                 {keep: clientResets},
	"upstream resets":               {keep: upstreamResets},
	"client's connection is cut":    {keep: clientIsCut},
	"upstream's connection is cut":  {keep: upstreamIsCut},
	"client half-closes":            {keep: clientHalfCloses},
	"upstream half-closes":          {keep: upstreamHalfCloses},
	"half-close timeout":            {options: []string{"half_close_timeout 1s"}, keep: halfCloseTimesOut},

	"drain":     {keep: drains},
	"eviction":  {options: []string{"evict_period 1s"}, keep: evicts},
	"rebalance": {options: []string{"rebalance 100% 1s"}, upstreams: 2, keep: rebalances},
	"kill":      {keep: kills},
	"expiry":    {options: expiring, keep: expires},
	"renewal":   {options: expiring, keep: renews},

	"pings":                 {options: []string{"ping_interval 1s", "ping_timeout 20s"}, keep: pings},
	"client does not react": {options: []string{"ping_interval 1s", "ping_timeout 1s"}, keep: clientIsPingedInVain},
	"upstream does not":     {options: []string{"ping_interval 1s", "ping_timeout 1s"}, keep: upstreamIsPingedInVain},
	"idle timeout":          {options: []string{"idle_timeout 1s"}, keep: endsBy("idle_timeout")},
	"lifetime":              {options: []string{"max_lifetime 1s"}, keep: endsBy("max_lifetime")},
	"write timeout":         {options: []string{"write_timeout 1s"}, keep: writeTimesOut},

	"message size, client":   {options: []string{"max_message_size 1000"}, keep: clientSaysTooMuch},
	"message size, upstream": {options: []string{"max_message_size 1000"}, keep: upstreamSaysTooMuch},
	"rate, delayed":          {options: []string{"max_message_rate 50 1"}, keep: isDelayed},
	"rate, closed":           {options: []string{"max_message_rate 1 2 close"}, keep: isClosedForItsRate},
	"places of a client":     {options: []string{"max_tunnels_per_client 1"}, keep: placesComeBack},

	"access log": {keep: isInTheAccessLog},
	"labels":     {options: []string{"label user {http.request.uri.query.user}"}, keep: isLabelled},
}

var expiring = []string{
	"label user {http.request.uri.query.user}", "expires {http.request.uri.query.exp}", "expired_code 4001",
}

func messagesArrive(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	sizes := []int{0, 1, 125, 126, 1 << 10, 1<<16 - 1, 1 << 16, 1 << 20}
	content := func(size int) testbed.Frame {
		return testbed.NewFrame(testbed.Binary, strings.Repeat(string(rune('a'+size%26)), size))
	}
	sent := testbed.Go(tb, func(tb testing.TB) {
		for _, size := range sizes {
			t.client.send(tb, content(size))
		}
	})
	answered := testbed.Go(tb, func(testing.TB) {
		for _, size := range sizes {
			t.u.WriteFrame(content(size))
		}
	})
	received := testbed.Go(tb, func(testing.TB) {
		for _, size := range sizes {
			t.u.ExpectFrame(testbed.Binary, string(content(size).Payload))
		}
	})
	for _, size := range sizes {
		t.client.expect(tb, content(size))
	}
	sent()
	answered()
	received()
	t.leave(tb)
	t.expectLine(tb, "client_closed", "client")
}

// statuses are what a Close may have, 0 for nothing, and what is answered.
var statuses = []struct{ said, answered uint16 }{{1000, 1000}, {1001, 1001}, {1011, 1000}, {3000, 3000}, {4999, 4000}, {0, 0}}

func anyStatusOfTheClient(tb testing.TB, s *pairSite) {
	tb.Helper()
	for _, status := range statuses {
		t := s.open(tb)
		bye := closeSaying(status.said)
		t.client.send(tb, bye)
		t.u.ExpectFrame(testbed.Close, string(bye.Payload))
		t.u.WriteFrame(testbed.NewClose(status.answered, ""))
		t.u.Close()
		t.client.expect(tb, testbed.NewClose(status.answered, ""))
		t.expectEnd(tb)
		t.expectClosedBy(tb, "client", status.said)
	}
}

func anyStatusOfTheUpstream(tb testing.TB, s *pairSite) {
	tb.Helper()
	for _, status := range statuses {
		t := s.open(tb)
		bye := closeSaying(status.said)
		t.u.WriteFrame(bye)
		t.client.expect(tb, bye)
		t.client.send(tb, testbed.NewClose(status.answered, ""))
		t.u.ExpectClose(status.answered)
		t.u.Close()
		t.expectEnd(tb)
		t.expectClosedBy(tb, "upstream", status.said)
	}
}

// closeSaying is a Close that says something, if it has a status.
func closeSaying(status uint16) testbed.Frame {
	if status == 0 {
		return testbed.NewClose(0, "")
	}
	return testbed.NewClose(status, "goodbye")
}

// expectClosedBy expects a closing handshake that a peer has begun.
func (t *pairTunnel) expectClosedBy(tb testing.TB, peer string, status uint16) {
	tb.Helper()
	t.expectLine(tb, peer+"_closed", peer)
	line := t.line(tb)
	if status != 0 && (line.num("close_code") != float64(status) || line.str("close_from") != peer) {
		tb.Errorf("the line is %v, want the status %d of the %s", line, status, peer)
	}
}

func clientEndsWithoutClose(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.talk(tb)
	t.client.send(tb, testbed.NewFrame(testbed.Text, "last"))
	if socket, ok := t.client.stream.(socketClient); ok {
		socket.Close()
	} else {
		t.client.closeWrite(tb)
	}
	t.u.ExpectFrame(testbed.Text, "last")
	t.u.ExpectEOF()
	t.u.Close()
	t.expectLine(tb, "client_closed", "client")
}

func upstreamEndsWithoutClose(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.talk(tb)
	t.u.WriteFrame(testbed.NewFrame(testbed.Text, "last"))
	t.u.Close()
	t.client.expect(tb, testbed.NewFrame(testbed.Text, "last"))
	t.expectEnd(tb)
	t.expectLine(tb, "upstream_closed", "upstream")
}

func clientResets(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.talk(tb)
	t.client.cancel(tb)
	t.expectUpstreamIsReset()
	t.expectLine(tb, "client_reset", "client")
}

// expectUpstreamIsReset expects that the upstream learns of a reset, where its socket can
// be reset.
func (t *pairTunnel) expectUpstreamIsReset() {
	if t.site.upstream == "unix" {
		t.u.ExpectClosed()
	} else {
		t.u.ExpectReset()
	}
	t.u.Close()
}

func upstreamResets(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.talk(tb)
	t.resetUpstream(tb)
	t.expectClientIsReset(tb)
	t.expectLine(tb, "upstream_reset", "upstream")
}

// resetUpstream resets the upstream's end, also of a unix socket: one that is closed with
// something unread does that.
func (t *pairTunnel) resetUpstream(tb testing.TB) {
	tb.Helper()
	if t.site.upstream != "unix" {
		t.u.Reset()
		return
	}
	t.client.send(tb, testbed.NewFrame(testbed.Text, "unread"))
	var one [1]byte
	if _, err := t.u.NetConn().Read(one[:]); err != nil {
		tb.Fatal(err)
	}
	t.u.Close()
}

// expectClientIsReset expects that the client learns of a reset, where that can be told:
// a server of HTTP/2 or HTTP/3 ends the stream.
func (t *pairTunnel) expectClientIsReset(tb testing.TB) {
	tb.Helper()
	socket, ok := t.client.stream.(socketClient)
	if !ok {
		t.expectEnd(tb)
		return
	}
	if b, err := t.client.in.ReadByte(); err == nil {
		tb.Errorf("the client has got the byte %#x, want a reset", b)
	}
	socket.ExpectClosed()
	socket.Close()
}

func clientIsCut(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.talk(tb)
	t.client.disconnect(tb)
	t.u.ExpectClosed()
	t.u.Close()
	want := "client_reset"
	if !s.isStream() {
		want = "client_closed" // as TCP ends, and TLS may
	}
	t.expectLine(tb, want, "client")
}

func upstreamIsCut(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.talk(tb)
	disconnect(t.u)
	t.expectEnd(tb)
	t.expectLine(tb, "upstream_closed", "upstream")
}

func clientHalfCloses(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.client.send(tb, testbed.NewFrame(testbed.Text, "that is all"))
	t.client.closeWrite(tb)
	t.u.ExpectFrame(testbed.Text, "that is all")
	t.u.ExpectEOF()
	for range 3 {
		t.u.WriteFrame(testbed.NewFrame(testbed.Text, "answer"))
		t.client.expect(tb, testbed.NewFrame(testbed.Text, "answer"))
	}
	t.u.Close()
	t.expectEnd(tb)
	t.expectLine(tb, "client_closed", "client")
}

func upstreamHalfCloses(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.u.WriteFrame(testbed.NewFrame(testbed.Text, "that is all"))
	t.u.CloseWrite()
	t.client.expect(tb, testbed.NewFrame(testbed.Text, "that is all"))
	t.client.expectEnd(tb)
	if !strings.HasPrefix(s.client, "h2") { // whose server ends a stream whole
		for range 3 {
			t.client.send(tb, testbed.NewFrame(testbed.Text, "answer"))
			t.u.ExpectFrame(testbed.Text, "answer")
		}
		t.client.closeWrite(tb)
	}
	t.u.ExpectEOF()
	t.u.Close()
	t.expectLine(tb, "upstream_closed", "upstream")
}

func halfCloseTimesOut(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.client.closeWrite(tb)
	t.u.ExpectEOF()
	t.client.expect(tb, testbed.NewClose(1001, ""))
	t.expectEnd(tb)
	t.u.Close()
	t.expectLine(tb, "half_close_timeout", "proxy")
}

func drains(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.talk(tb)
	s.caddy.operate(tb, s.addresses[0], "drain")
	if status := s.refused(tb); status != http.StatusServiceUnavailable {
		tb.Errorf("the answer while the upstream is drained is %d, want 503", status)
	}
	t.talk(tb)
	s.caddy.operate(tb, s.addresses[0], "ready")
	s.open(tb).leave(tb)
	t.leave(tb)
	t.expectLine(tb, "client_closed", "client")
}

func evicts(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.talk(tb)
	s.caddy.operate(tb, s.addresses[0], "evict")
	bye := testbed.NewClose(1012, "")
	t.expectEnded(tb, "evicted", "proxy", bye, bye)
}

func rebalances(tb testing.TB, s *pairSite) {
	tb.Helper()
	s.caddy.operate(tb, s.addresses[1], "drain")
	tunnels := []*pairTunnel{s.open(tb), s.open(tb)}
	moved, staying := make(chan *pairTunnel, len(tunnels)), testbed.NewFrame(testbed.Text, "stay")
	var waits []func()
	for _, t := range tunnels {
		t.talk(tb)
		waits = append(waits, testbed.Go(tb, func(tb testing.TB) {
			if t.clientNext(tb).Opcode == testbed.Close {
				moved <- t
			}
		}))
	}
	s.caddy.operate(tb, s.addresses[1], "ready")
	gone := within(tb, "one moves", moved)
	gone.client.send(tb, testbed.NewClose(1012, ""))
	gone.u.ExpectClose(1012)
	gone.u.Close()
	gone.expectEnd(tb)
	gone.expectLine(tb, "rebalanced", "proxy")
	for i, t := range tunnels {
		if t != gone {
			t.u.WriteFrame(staying)
			waits[i]()
			t.talk(tb)
			t.leave(tb)
		}
	}
}

func kills(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.talk(tb)
	var closing struct{ Closing int }
	s.caddy.api(tb, http.MethodDelete, "tunnels/"+t.id+"?code=4000&reason=enough", "", http.StatusAccepted, &closing)
	bye := testbed.NewClose(4000, "enough")
	t.expectEnded(tb, "killed", "proxy", bye, bye)
}

// openExpiring opens a tunnel of a user, and for no long time.
func (s *pairSite) openExpiring(tb testing.TB, user string) *pairTunnel {
	tb.Helper()
	return s.openAs(tb, func() string {
		at := time.Now().Add(4 * time.Second).UnixMilli()
		return fmt.Sprintf("?user=%s-%s&exp=%d.%03d", s.name, user, at/1000, at%1000)
	})
}

func expires(tb testing.TB, s *pairSite) {
	tb.Helper()
	bye := testbed.NewClose(4001, "expired")
	s.openExpiring(tb, "alice").expectEnded(tb, "expired", "proxy", bye, bye)
}

func renews(tb testing.TB, s *pairSite) {
	tb.Helper()
	renewed := s.openExpiring(tb, "alice")
	renewed.talk(tb)
	if status, body := s.caddy.get(tb, "/renew?user="+s.name+"-alice&exp=1h"); status != http.StatusOK || body != "1" {
		tb.Errorf("the answer is %d %q, want 1 tunnel that is renewed", status, body)
	}
	other := s.openExpiring(tb, "bob") // which expires later
	bye := testbed.NewClose(4001, "expired")
	other.expectEnded(tb, "expired", "proxy", bye, bye)
	renewed.talk(tb)
	renewed.leave(tb)
}

func pings(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	for range 2 {
		ping, err := readFrame(t.client.in)
		if err != nil || ping.Opcode != testbed.Ping || len(ping.Payload) != 12 {
			tb.Fatalf("the client has got %v, %v, want a ping of ours", ping, err)
		}
		t.client.send(tb, testbed.NewFrame(testbed.Pong, string(ping.Payload)))
		if ping = t.u.ReadFrame(); ping.Opcode != testbed.Ping || len(ping.Payload) != 12 {
			tb.Fatalf("the upstream has got %v, want a ping of ours", ping)
		}
		t.u.WriteFrame(testbed.NewFrame(testbed.Pong, string(ping.Payload)))
	}
	// Neither gets the other's pongs.
	t.client.send(tb, testbed.NewClose(1000, ""))
	if bye := t.upstreamNext(); bye.Opcode != testbed.Close {
		tb.Errorf("the upstream has got %v, want the Close", bye)
	}
	t.u.WriteFrame(testbed.NewClose(1000, ""))
	t.u.Close()
	if bye := t.clientNext(tb); bye.Opcode != testbed.Close {
		tb.Errorf("the client has got %v, want the Close", bye)
	}
	t.expectEnd(tb)
	t.expectLine(tb, "client_closed", "client")
}

// upstreamNext answers pings of ours, and returns the next other frame for the upstream.
func (t *pairTunnel) upstreamNext() testbed.Frame {
	for {
		f := t.u.ReadFrame()
		if f.Opcode != testbed.Ping {
			return f
		}
		t.u.WriteFrame(testbed.NewFrame(testbed.Pong, string(f.Payload)))
	}
}

// clientNext is upstreamNext for the client.
func (t *pairTunnel) clientNext(tb testing.TB) testbed.Frame {
	tb.Helper()
	for {
		f, err := readFrame(t.client.in)
		if err != nil {
			tb.Fatalf("the client waits for a frame: %v", err)
		}
		if f.Opcode != testbed.Ping {
			return f
		}
		t.client.send(tb, testbed.NewFrame(testbed.Pong, string(f.Payload)))
	}
}

func clientIsPingedInVain(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	ended := testbed.Go(tb, func(tb testing.TB) {
		if bye := t.upstreamNext(); bye.Opcode != testbed.Close {
			tb.Errorf("the upstream has got %v, want a Close", bye)
		}
		t.u.Close()
	})
	f, err := readFrame(t.client.in)
	for ; err == nil && f.Opcode == testbed.Ping; f, err = readFrame(t.client.in) {
	}
	if code, _ := f.CloseStatus(); err != nil || f.Opcode != testbed.Close || code != 1001 {
		tb.Errorf("the client has got %v, %v, want a Close with 1001", f, err)
	}
	ended()
	t.expectLine(tb, "ping_timeout", "client")
}

func upstreamIsPingedInVain(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	ended := testbed.Go(tb, func(tb testing.TB) {
		bye := t.clientNext(tb)
		if code, _ := bye.CloseStatus(); bye.Opcode != testbed.Close || code != 1001 {
			tb.Errorf("the client has got %v, want a Close with 1001", bye)
		}
		t.client.send(tb, testbed.NewClose(1001, ""))
		t.expectEnd(tb)
	})
	f := t.u.ReadFrame()
	for ; f.Opcode == testbed.Ping; f = t.u.ReadFrame() {
	}
	if f.Opcode != testbed.Close {
		tb.Errorf("the upstream has got %v, want a Close", f)
	}
	t.u.Close()
	ended()
	t.expectLine(tb, "ping_timeout", "upstream")
}

// endsBy expects that a time ends a tunnel.
func endsBy(reason string) func(tb testing.TB, s *pairSite) {
	return func(tb testing.TB, s *pairSite) {
		tb.Helper()
		bye := testbed.NewClose(1001, "")
		s.open(tb).expectEnded(tb, reason, "proxy", bye, bye)
	}
}

func writeTimesOut(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.u.SetTimeout(0)
	flooded := testbed.Go(tb, func(testing.TB) {
		frame := testbed.NewFrame(testbed.Binary, strings.Repeat("x", 1<<20)).Bytes(false)
		for {
			if _, err := t.u.Write(frame); err != nil {
				return
			}
		}
	})
	t.expectLine(tb, "write_timeout", "proxy")
	flooded()
	t.u.Close()
}

func clientSaysTooMuch(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.talk(tb)
	t.client.send(tb, testbed.NewFrame(testbed.Binary, strings.Repeat("x", 2000)))
	t.client.expect(tb, testbed.NewClose(1009, ""))
	t.u.ExpectClose(1001)
	t.client.send(tb, testbed.NewClose(1009, ""))
	t.expectEnd(tb)
	t.u.Close()
	t.expectLine(tb, "message_too_big", "client")
}

func upstreamSaysTooMuch(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.talk(tb)
	t.u.WriteFrame(testbed.NewFrame(testbed.Binary, strings.Repeat("x", 2000)))
	t.client.expect(tb, testbed.NewClose(1001, ""))
	t.client.send(tb, testbed.NewClose(1001, ""))
	t.u.ExpectClose(1009)
	t.u.Close()
	t.expectEnd(tb)
	t.expectLine(tb, "message_too_big", "upstream")
}

func isDelayed(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	began := time.Now()
	for i := range 11 {
		t.client.send(tb, testbed.NewFrame(testbed.Text, fmt.Sprint(i)))
	}
	for i := range 11 {
		t.u.ExpectFrame(testbed.Text, fmt.Sprint(i))
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		tb.Errorf("11 messages took %v at 50 per second", took)
	}
	t.leave(tb)
}

func isClosedForItsRate(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	for range 3 {
		t.client.send(tb, testbed.NewFrame(testbed.Text, "spam"))
	}
	t.u.ExpectFrame(testbed.Text, "spam")
	t.u.ExpectFrame(testbed.Text, "spam")
	t.u.ExpectClose(1001)
	t.client.expect(tb, testbed.NewClose(1008, ""))
	t.client.send(tb, testbed.NewClose(1008, ""))
	t.expectEnd(tb)
	t.u.Close()
	t.expectLine(tb, "rate_limited", "client")
}

func placesComeBack(tb testing.TB, s *pairSite) {
	tb.Helper()
	for range 2 {
		t := s.open(tb)
		t.talk(tb)
		if status := s.refused(tb); status != http.StatusTooManyRequests {
			tb.Errorf("the answer to a second handshake of the client is %d, want 429", status)
		}
		t.leave(tb)
		t.line(tb) // its place is given back before
	}
}

func isInTheAccessLog(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.open(tb)
	t.talk(tb)
	handled := message("handled request", "tunnel", t.id)
	if !strings.HasPrefix(s.client, "h2") {
		s.caddy.log.waitOne(tb, handled) // of the handshake, which is all of the request
	} else if lines := s.caddy.log.find(handled); len(lines) > 0 {
		tb.Errorf("the request that is a tunnel has ended, says %v", lines)
	}
	t.leave(tb)
	t.line(tb)
	if lines := s.caddy.log.wait(tb, 1, handled); len(lines) != 1 || lines[0].num("status") != float64(s.accepts()) ||
		lines[0].str("upstream") != s.addresses[0] {
		tb.Errorf("the access log has %v, want one line with the status %d and the upstream %s", lines, s.accepts(), s.addresses[0])
	}
}

func isLabelled(tb testing.TB, s *pairSite) {
	tb.Helper()
	t := s.openAs(tb, func() string { return "?user=" + s.name })
	t.talk(tb)
	if got := s.caddy.listedTunnels(tb, "label=user%3D"+s.name); len(got) != 1 || got[0].ID != t.id {
		tb.Errorf("the tunnels of the user are %v, want %s", got, t.id)
	}
	body := fmt.Sprintf(`{"labels": {"user": %q}, "code": 4003, "reason": "banned"}`, s.name)
	var closing struct{ Closing int }
	s.caddy.api(tb, http.MethodPost, "tunnels/close", body, http.StatusAccepted, &closing)
	bye := testbed.NewClose(4003, "banned")
	t.expectEnded(tb, "killed", "proxy", bye, bye)
	if labels, _ := t.line(tb)["labels"].(map[string]any); labels["user"] != s.name {
		tb.Errorf("the line has the labels %v", labels)
	}
}
