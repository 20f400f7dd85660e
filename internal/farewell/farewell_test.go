package farewell

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

func TestWhoseConnectionIsNotToBeHadIsNotTold(t *testing.T) {
	w := httptest.NewRecorder()
	f := &Farewell{Code: 1008, Offer: new(handshake.Offer), Begun: func() { t.Error("it has begun") }}
	err := f.Tell(t.Context(), w, httptest.NewRequest(http.MethodGet, "/", nil))
	if !errors.Is(err, ErrUnanswered) || len(w.Header()) > 0 {
		t.Errorf("a connection that is not to be had: %v, with %v", err, w.Header())
	}
}
