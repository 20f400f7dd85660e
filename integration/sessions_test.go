package integration

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	gorilla "github.com/gorilla/websocket"
)

// sessionServer is an application that knows its own sessions only. It speaks as the servers
// of Socket.IO, SignalR and SockJS do, as far as a balancer is concerned.
type sessionServer struct {
	*httptest.Server

	addr    string
	unknown atomic.Int64 // requests of sessions that are not here

	mu       sync.Mutex // guards what follows
	sessions map[string]bool
	sockets  map[*gorilla.Conn]struct{}
}

func startSessionServer(tb testing.TB) *sessionServer {
	tb.Helper()
	s := &sessionServer{sessions: make(map[string]bool), sockets: make(map[*gorilla.Conn]struct{})}
	s.Server = httptest.NewServer(s)
	s.addr = s.Listener.Addr().String()
	tb.Cleanup(s.stop)
	return s
}

// stop ends the server and its tunnels.
func (s *sessionServer) stop() {
	s.mu.Lock()
	for conn := range s.sockets {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.Close()
}

func (s *sessionServer) tunnels() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sockets)
}

// ServeHTTP implements http.Handler.
func (s *sessionServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(backendField, s.addr)
	query := r.URL.Query()
	var session string
	switch {
	case strings.HasPrefix(r.URL.Path, "/socket.io/"):
		session = query.Get("sid")
	case strings.HasPrefix(r.URL.Path, "/hub"):
		session = query.Get("id")
	default: // SockJS has the client make it up
		if strings.HasSuffix(r.URL.Path, "/info") {
			return
		}
		session = r.URL.Path[:strings.LastIndexByte(r.URL.Path, '/')]
		if strings.HasSuffix(r.URL.Path, "/xhr") {
			s.add(session)
			return
		}
	}
	if session == "" {
		session = rand64()
		s.add(session)
		_, _ = io.WriteString(w, session)
		return
	}
	if !s.has(session) {
		s.unknown.Add(1)
		http.Error(w, "unknown session", http.StatusBadRequest)
		return
	}
	if gorilla.IsWebSocketUpgrade(r) {
		s.serve(w, r)
	}
}

func (s *sessionServer) add(session string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[session] = true
}

func (s *sessionServer) has(session string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[session]
}

func (s *sessionServer) serve(w http.ResponseWriter, r *http.Request) {
	conn, err := new(gorilla.Upgrader).Upgrade(w, r, http.Header{backendField: {s.addr}})
	if err != nil {
		return // the client sees it
	}
	defer conn.Close()
	s.mu.Lock()
	s.sockets[conn] = struct{}{}
	s.mu.Unlock()
	_ = serveGorilla(conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, conn)
}

var sessionsMade atomic.Int64

// rand64 is the name of a session that there was not before.
func rand64() string { return fmt.Sprint("session-", sessionsMade.Add(1)) }

// sessionClient is a client of such an application.
type sessionClient struct {
	c    *caddy
	way  int
	jar  http.CookieJar
	conn *gorilla.Conn
	home string // where its session is
}

// ways are the requests of a session, of which the last opens the WebSocket. %s is the
// session, which the first one makes.
var ways = [][]string{
	{"GET /socket.io/?EIO=4&transport=polling", "POST /socket.io/?EIO=4&sid=%s", "GET /socket.io/?EIO=4&transport=websocket&sid=%s"},
	{"POST /hub/negotiate?negotiateVersion=1", "GET /hub?id=%s"},
	{"GET /echo/info", "POST /echo/000/%s/xhr", "POST /echo/000/%s/xhr_send", "GET /echo/000/%s/websocket"},
}

// begin opens a session, and its WebSocket. The error is that of a session that is lost.
func (v *sessionClient) begin(http1 *http.Client) error {
	steps := ways[v.way]
	session := rand64()
	for i, step := range steps {
		method, path, _ := strings.Cut(step, " ")
		if strings.Contains(path, "%s") {
			path = fmt.Sprintf(path, session)
		}
		if i == len(steps)-1 {
			return v.upgrade(path)
		}
		body, err := v.request(http1, method, path)
		if err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
		if body != "" {
			session = body
		}
	}
	return nil
}

func (v *sessionClient) request(http1 *http.Client, method, path string) (string, error) {
	req, err := http.NewRequest(method, "http://"+v.c.http+path, http.NoBody)
	if err != nil {
		return "", err
	}
	client := *http1
	client.Jar = v.jar
	resp, err := client.Do(req)
	if err != nil { // by a reload, which closes connections; then nobody has got it
		if resp, err = client.Do(req); err != nil {
			return "", err
		}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s at %s: status %d: %s, %w", method, path, v.home, resp.StatusCode, body, err)
	}
	at := resp.Header.Get(backendField)
	if v.home == "" || strings.HasSuffix(path, "/info") {
		v.home = at
	}
	if at != v.home {
		return "", fmt.Errorf("%s %s came to %s instead of %s", method, path, at, v.home)
	}
	return string(body), nil
}

func (v *sessionClient) upgrade(path string) error {
	dialer := gorilla.Dialer{Jar: v.jar, HandshakeTimeout: timeout}
	conn, resp, err := dialer.Dial("ws://"+v.c.http+path, nil)
	if resp == nil {
		conn, resp, err = dialer.Dial("ws://"+v.c.http+path, nil)
	}
	if err != nil {
		status := 0
		if resp != nil {
			status = resp.StatusCode
		}
		return fmt.Errorf("the WebSocket of a session at %s: %w: status %d", v.home, err, status)
	}
	if at := resp.Header.Get(backendField); at != v.home {
		_ = conn.Close()
		return fmt.Errorf("the WebSocket came to %s instead of %s", at, v.home)
	}
	v.conn = conn
	return nil
}

// TestSessionsWhileUpstreamsComeAndGo has clients of three kinds come to four upstreams of
// different weights, while one joins, one is drained and one dies.
func TestSessionsWhileUpstreamsComeAndGo(t *testing.T) {
	clients := amount(2000, 200)
	var servers []*sessionServer
	var lines []string
	for _, weight := range []int{1, 1, 2, 4} {
		s := startSessionServer(t)
		servers, lines = append(servers, s), append(lines, fmt.Sprintf("upstream %s weight %d", s.addr, weight))
	}
	dies, drained, joins := servers[0], servers[1], servers[3]
	c := startCaddy(t, site("websocket_proxy {\n"+strings.Join(lines, "\n")+`
	name app
	lb_policy cookie
	sticky_session path /socket.io/* query !sid
	sticky_session path */negotiate
	sticky_session path */info
}
reverse_proxy {
	dynamic websocket_proxy app
	lb_policy websocket_proxy app
	lb_retries 2
}`))
	http1 := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: timeout}
	defer http1.CloseIdleConnections()
	all := make([]*sessionClient, clients)
	for i := range all {
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = &sessionClient{c: c, way: i % len(ways), jar: jar}
	}
	defer func() {
		for _, v := range all {
			if v.conn != nil {
				_ = v.conn.Close()
			}
		}
	}()
	var dead atomic.Bool
	// come has clients begin, 16 at a time, and something happen in the middle of that.
	come := func(some []*sessionClient, happens func()) {
		var working sync.WaitGroup
		next := make(chan *sessionClient)
		for range 16 {
			working.Go(func() {
				for v := range next {
					// What was on its way to one that dies is lost, too, before anybody knew
					// where it was.
					if err := v.begin(http1); err != nil && v.home != dies.addr && (v.home != "" || !dead.Load()) {
						t.Errorf("a session is lost: %v", err)
					}
				}
			})
		}
		for i, v := range some {
			if i == len(some)/2 {
				happens()
			}
			next <- v
		}
		close(next)
		working.Wait()
	}
	quarter := clients / 4
	c.operate(t, joins.addr, "maint")
	come(all[:quarter], func() {})
	expectShares(t, servers[:3], 1, 1, 2)
	c.operate(t, joins.addr, "ready")
	come(all[quarter:2*quarter], func() {})
	expectShares(t, servers, 1, 1, 2, 4)
	come(all[2*quarter:3*quarter], func() { c.operate(t, drained.addr, "drain") })
	before := drained.tunnels()
	come(all[3*quarter:], func() {
		dead.Store(true)
		dies.stop()
	})
	if got := drained.tunnels(); got != before {
		t.Errorf("the drained upstream has %d tunnels, and had %d", got, before)
	}
	// Those of the dead begin anew, and with them half of those at the drained one, which
	// may stay there.
	var again []*sessionClient
	for i, v := range all {
		if v.conn == nil || v.home == dies.addr || v.home == drained.addr && i%2 == 0 {
			if v.conn != nil {
				_ = v.conn.Close()
			}
			if v.home == dies.addr {
				v.home = ""
			}
			v.conn = nil
			again = append(again, v)
		}
	}
	come(again, func() {})
	for _, v := range again {
		if v.conn == nil {
			t.Errorf("a client at %q has no tunnel", v.home)
		}
	}
	eventually(t, "all clients have tunnels, and the drained upstream has its own", func() bool {
		sum := 0
		for _, s := range servers[1:] {
			sum += s.tunnels()
		}
		return sum == clients && drained.tunnels() == before
	})
	expectShares(t, servers[2:], 2, 4)
	for _, s := range servers[1:] {
		for _, v := range all {
			if u, _ := url.Parse("http://" + c.http); v.home == s.addr && len(v.jar.Cookies(u)) != 1 {
				t.Errorf("a client has cookies %v", v.jar.Cookies(u))
			}
		}
	}
}

// expectShares compares the tunnels of servers with their weights: 10 % more or less, or one.
func expectShares(t *testing.T, servers []*sessionServer, weights ...int) {
	t.Helper()
	sum, of := 0, 0
	for i, s := range servers {
		sum, of = sum+s.tunnels(), of+weights[i]
	}
	for i, s := range servers {
		want := float64(sum*weights[i]) / float64(of)
		if got := float64(s.tunnels()); math.Abs(got-want) > max(1, want/10) {
			t.Errorf("the upstream of weight %d has %v tunnels, want about %v", weights[i], got, want)
		}
	}
}
