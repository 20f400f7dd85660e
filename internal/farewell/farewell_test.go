package farewell

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

func TestOnlySoManyAreToldAtATime(t *testing.T) {
	var all Farewells
	all.now.Store(most)
	w := httptest.NewRecorder()
	f := &Farewell{Code: 1008, Offer: new(handshake.Offer), Begun: func() { t.Error("it has begun") }}
	err := all.Tell(t.Context(), w, httptest.NewRequest(http.MethodGet, "/", nil), f)
	if !errors.Is(err, ErrUnanswered) || len(w.Header()) > 0 || all.Count() != most {
		t.Errorf("one more than %d: %v, with %v; %d are told", most, err, w.Header(), all.Count())
	}
	all.now.Store(most - 1)
	err = all.Tell(t.Context(), w, httptest.NewRequest(http.MethodGet, "/", nil), f)
	if !errors.Is(err, ErrUnanswered) || len(w.Header()) > 0 || all.Count() != most-1 {
		t.Errorf("a connection that is not to be had: %v, with %v; %d are told", err, w.Header(), all.Count())
	}
}
