package discovery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/outside"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// maxLost bounds the calls that sources have not answered in time and, as there
// is no way to end or to join a goroutine that other code holds, may never do: those
// of all that are looked up in the background, and of each that is looked up in
// handshakes, as clients decide about these.
const maxLost = 100

func newCallee() *outside.Callee {
	return &outside.Callee{
		Name:    "the source",
		MaxLost: maxLost,
		TooMany: fmt.Errorf("%d calls of upstream sources have never been answered; restart Caddy when these work again", maxLost),
	}
}

// Lookup asks a source once. It returns upstreams without a place, and says of which
// addresses it cannot make one, and why.
type Lookup func(context.Context) (found []*upstream.Endpoint, unusable []string, err error)

// answer is what a source has found.
type answer struct {
	found    []*upstream.Endpoint // at least one, and each address once
	unusable []string
}

// call is a lookup that may never come back.
type call = outside.Call[answer]

func (l Lookup) start(ctx context.Context, timeout time.Duration, callee *outside.Callee) *call {
	return outside.Start(ctx, timeout, callee, func(ctx context.Context) (answer, error) {
		found, unusable, err := l(ctx)
		if err != nil {
			return answer{}, err
		}
		return newAnswer(found, unusable)
	})
}

// newAnswer takes each address once. An answer without any is as good as none: `multi`
// gives that if all of its sources fail, and others if what they ask has just started.
func newAnswer(found []*upstream.Endpoint, unusable []string) (answer, error) {
	a := answer{unusable: unusable}
	seen := make(map[string]bool, len(found))
	for _, e := range found {
		if key := e.Key(); !seen[key] {
			seen[key] = true
			a.found = append(a.found, e)
		}
	}
	switch {
	case len(a.found) > 0:
		return a, nil
	case len(unusable) > 0:
		return answer{}, fmt.Errorf("none of the addresses can be used: %s", strings.Join(unusable, "; "))
	default:
		return answer{}, errors.New("there are no addresses")
	}
}
