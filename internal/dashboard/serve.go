package dashboard

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

//go:embed page
var files embed.FS

// pageFiles are what a browser may ask for, with their types; the empty name is the page.
var pageFiles = map[string]struct{ file, kind string }{
	"":          {"index.html", "text/html; charset=utf-8"},
	"style.css": {"style.css", "text/css; charset=utf-8"},
	"app.js":    {"app.js", "text/javascript; charset=utf-8"},
	"table.js":  {"table.js", "text/javascript; charset=utf-8"},
	"icon.svg":  {"icon.svg", "image/svg+xml"},
}

// pageVersion is the same for the same files, so that an old page sees that it is one.
var pageVersion = versionOf(files)

// versionOf is the version of a page of these files.
func versionOf(files fs.FS) string {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(pageFiles)) {
		text, err := fs.ReadFile(files, "page/"+pageFiles[name].file)
		if err != nil {
			panic(err) // it is embedded
		}
		_, _ = fmt.Fprintf(sum, "%s %d ", name, len(text))
		_, _ = sum.Write(text)
	}
	return base64.RawURLEncoding.EncodeToString(sum.Sum(nil)[:9])
}

// refuse makes the error for a request that is refused.
func refuse(status int, format string, args ...any) error {
	return &admin.Error{Status: status, Err: fmt.Errorf(format, args...)}
}

// ServeHTTP serves the page, and what it asks for. It answers refusals itself, as the page
// shows what they say.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	setHeaders(w.Header())
	err := h.checkHost(r)
	if err == nil {
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			err = h.show(w, r)
		case http.MethodPost, http.MethodDelete:
			err = h.act(w, r)
		default:
			w.Header().Set("Allow", "GET, HEAD, POST, DELETE")
			err = refuse(http.StatusMethodNotAllowed, "the method %q does nothing here", r.Method)
		}
	}
	refused, ok := errors.AsType[*admin.Error](err)
	if !ok {
		return err
	}
	return answer(w, r, refused.Status, map[string]string{"error": refused.Error()})
}

// resource is what of the page is asked for. Only the last part of a path counts, so that
// the page works wherever it is.
func resource(r *http.Request) string {
	_, name := path.Split(r.URL.Path)
	return name
}

// show answers what changes nothing.
func (h *Handler) show(w http.ResponseWriter, r *http.Request) error {
	name := resource(r)
	if name == "" && !strings.HasSuffix(originalPath(r), "/") {
		_, name = path.Split(originalPath(r))
		return addSlash(w, r, name)
	}
	if file, ok := pageFiles[name]; ok {
		text, err := files.ReadFile("page/" + file.file)
		if err != nil {
			return err
		}
		// The page says which one it is, as what it asks for may be answered by a newer
		// process from the first time on.
		text = bytes.Replace(text, []byte(`data-version=""`), []byte(`data-version="`+pageVersion+`"`), 1)
		w.Header().Set("Content-Type", file.kind)
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		_, _ = w.Write(text) // a browser that has gone does not need it
		return nil
	}
	now := time.Now()
	switch name {
	case "summary":
		s := h.board.summary(now)
		s.Actions, s.You = h.Actions, actor(r)
		return answer(w, r, http.StatusOK, s)
	case "recent":
		after, _ := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
		events, last := h.board.Events(after)
		return answer(w, r, http.StatusOK, map[string]any{"events": events, "last": last})
	case "upstream":
		return answer(w, r, http.StatusOK, map[string]any{"checks": h.board.checksOf(r.URL.Query().Get("address"))})
	case "tunnels":
		list, err := h.board.list(r.URL.Query(), now)
		if err != nil {
			return err
		}
		return answer(w, r, http.StatusOK, list)
	}
	if strings.Contains(name, ".") {
		return refuse(http.StatusNotFound, "there is no %q here", printable.Text(name))
	}
	return addSlash(w, r, name)
}

// originalPath is the path that the client has sent, whatever handlers in front have made
// of it.
func originalPath(r *http.Request) string {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		return original.URL.Path
	}
	return r.URL.Path
}

// addSlash sends the browser to where relative addresses mean what is here. The leading
// dot keeps a name with a colon from being taken for a scheme.
func addSlash(w http.ResponseWriter, r *http.Request, name string) error {
	to := "./" + url.PathEscape(name) + "/"
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}

// answer writes JSON with a tag, or that it is what the browser has already.
func answer(w http.ResponseWriter, r *http.Request, status int, v any) error {
	text, err := printable.JSON(v)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	if status == http.StatusOK && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		sum := sha256.Sum256(text)
		tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text)
	return nil
}
