package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// admin is the address of a Caddy's administration endpoint, empty for peers
// that have nothing of the kind.
type admin string

// adminClient leaves no connection behind that would count as a cost.
var adminClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// goroutines returns how many the process has, those of the answer included.
func (a admin) goroutines(ctx context.Context) (int, error) {
	body, err := a.get(ctx, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return 0, err
	}
	defer closeQuietly(body)
	line, err := bufio.NewReader(body).ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("reading the goroutine profile: %w", err)
	}
	return parseGoroutines(line)
}

// count is goroutines for a row: NaN if the peer has nothing of the kind.
func (a admin) count(ctx context.Context) (float64, error) {
	if a == "" {
		return math.NaN(), nil
	}
	n, err := a.goroutines(ctx)
	return float64(n), err
}

// parseGoroutines parses the first line of a goroutine profile.
func parseGoroutines(line string) (int, error) {
	count, ok := strings.CutPrefix(strings.TrimSpace(line), "goroutine profile: total ")
	if !ok {
		return 0, fmt.Errorf("got %q as the first line of a goroutine profile", line)
	}
	return strconv.Atoi(count)
}

// closedTunnels returns the metrics of the module that count, by reasons, tunnels that have
// ended; nothing if there are none.
func (a admin) closedTunnels(ctx context.Context) string {
	if a == "" {
		return ""
	}
	body, err := a.get(ctx, "/metrics")
	if err != nil {
		return err.Error()
	}
	defer closeQuietly(body)
	var found []string
	for lines := bufio.NewScanner(body); lines.Scan() && len(found) < 20; {
		if strings.HasPrefix(lines.Text(), "caddy_websocket_proxy_tunnels_closed_total{") {
			found = append(found, lines.Text())
		}
	}
	return strings.Join(found, "; ")
}

// profile returns a CPU profile of the next d, in whole seconds.
func (a admin) profile(ctx context.Context, d time.Duration) ([]byte, error) {
	body, err := a.get(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%.0f", d.Seconds()))
	if err != nil {
		return nil, err
	}
	defer closeQuietly(body)
	return io.ReadAll(body)
}

func (a admin) get(ctx context.Context, path string) (io.ReadCloser, error) {
	//nolint:gosec // the address of a process that this program has started
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+string(a)+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	return a.do(req)
}

// do returns the body of a good answer.
func (a admin) do(req *http.Request) (io.ReadCloser, error) {
	resp, err := adminClient.Do(req) //nolint:gosec // see get
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		closeQuietly(resp.Body)
		return nil, fmt.Errorf("asking for %s: %w", req.URL.Path, statusError(resp.Status))
	}
	return resp.Body, nil
}
