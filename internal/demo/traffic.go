package demo

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	// trafficClients is how many clients there are, and trafficTime how long they go on.
	trafficClients = 24
	trafficTime    = 15 * time.Minute
)

// Traffic is clients that come, say something and go, so that there is something to look
// at.
type Traffic struct {
	cancel  context.CancelFunc
	clients sync.WaitGroup
}

// StartTraffic starts clients of an echo at a URL. They stop by themselves after
// 15 minutes.
func StartTraffic(url string) *Traffic {
	ctx, cancel := context.WithTimeout(context.Background(), trafficTime)
	t := &Traffic{cancel: cancel}
	for range trafficClients {
		t.clients.Go(func() {
			for pause(ctx, time.Second, 6*time.Second) {
				talk(ctx, url)
			}
		})
	}
	return t
}

// Stop ends them.
func (t *Traffic) Stop() {
	t.cancel()
	t.clients.Wait()
}

// pause waits for some time between two, and reports whether to go on.
func pause(ctx context.Context, least, most time.Duration) bool {
	timer := time.NewTimer(least + rand.N(most-least)) //nolint:gosec // it is for the looks only
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// talk is one client: most say some words and leave politely. A few have an origin that
// the upstream refuses, or just vanish.
func talk(ctx context.Context, url string) {
	kind := rand.IntN(30) //nolint:gosec // it is for the looks only
	options := new(websocket.DialOptions)
	if kind == 0 {
		options.HTTPHeader = http.Header{"Origin": {"https://elsewhere.example"}}
	}
	ws, resp, err := websocket.Dial(ctx, url, options)
	if resp != nil && resp.Body != nil && err != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		return
	}
	defer func() { _ = ws.CloseNow() }()
	for range 3 + rand.IntN(30) { //nolint:gosec // it is for the looks only
		if err := ws.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
			return
		}
		if _, _, err := ws.Read(ctx); err != nil {
			return
		}
		if !pause(ctx, time.Second, 4*time.Second) {
			return
		}
	}
	if kind != 1 {
		_ = ws.Close(websocket.StatusNormalClosure, "")
	}
}
