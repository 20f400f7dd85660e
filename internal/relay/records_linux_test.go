package relay

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// The content types of RFC 8446 section 5.1 that are needed here.
const (
	handshakeRecord = 22
	dataRecord      = 23
)

// recordMaker makes records of TLS 1.3 that crypto/tls reads, but never writes.
type recordMaker struct {
	tb     testing.TB
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// openKnown opens the connection of a client of which the secret of what it sends is known.
func openKnown(tb testing.TB) (peer, ours net.Conn, records *recordMaker) {
	tb.Helper()
	certs := testbed.NewCerts(tb)
	rawPeer, rawOurs := openTCP(tb)
	var secrets bytes.Buffer
	cfg := clientConfig(certs)
	cfg.KeyLogWriter = &secrets
	client, server := tls.Client(rawPeer, cfg), tls.Server(rawOurs, certs.ServerConfig())
	shakeHands(tb, client, server)
	if suite := client.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		tb.Skipf("without support for AES the cipher is %s", tls.CipherSuiteName(suite))
	}
	m := &recordMaker{tb: tb}
	for line := range strings.Lines(secrets.String()) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(fields[2])
			if err != nil {
				tb.Fatal(err)
			}
			m.use(secret)
		}
	}
	return client, server, m
}

// use begins with a traffic secret (RFC 8446 section 7.3).
func (m *recordMaker) use(secret []byte) {
	block, err := aes.NewCipher(m.expand(secret, "key", 16))
	if err != nil {
		m.tb.Fatal(err)
	}
	if m.aead, err = cipher.NewGCM(block); err != nil {
		m.tb.Fatal(err)
	}
	m.secret, m.iv, m.seq = secret, m.expand(secret, "iv", 12), 0
}

// expand is HKDF-Expand-Label of RFC 8446 section 7.1, without a context.
func (m *recordMaker) expand(secret []byte, label string, n int) []byte {
	label = "tls13 " + label
	info := string([]byte{0, byte(n), byte(len(label))}) + label + "\x00"
	key, err := hkdf.Expand(sha256.New, secret, info, n)
	if err != nil {
		m.tb.Fatal(err)
	}
	return key
}

// record is one record (RFC 8446 section 5.2).
func (m *recordMaker) record(kind byte, data string, padding int) string {
	plain := append(append([]byte(data), kind), make([]byte, padding)...)
	n := len(plain) + m.aead.Overhead()
	header := []byte{dataRecord, 3, 3, byte(n >> 8), byte(n)}
	nonce := slices.Clone(m.iv)
	for i := range 8 {
		nonce[len(nonce)-1-i] ^= byte(m.seq >> (8 * i))
	}
	m.seq++
	return string(header) + string(m.aead.Seal(nil, nonce, plain, header))
}

// padding are so many records that are as long as records may be, and have no data.
func (m *recordMaker) padding(records int) string {
	var all strings.Builder
	for range records {
		all.WriteString(m.record(dataRecord, "", 1<<14))
	}
	return all.String()
}

// update is an update of keys that asks for none in return (RFC 8446 section 4.6.3).
func (m *recordMaker) update() string {
	update := m.record(handshakeRecord, "\x18\x00\x00\x01\x00", 0)
	m.use(m.expand(m.secret, "traffic upd", 32))
	return update
}

// openedTLS is a relay whose client has sent some records before it starts. It finds out
// within an hour that there is a silence.
func openedTLS(t *testing.T, sent func(m *recordMaker) string) (w way, m *recordMaker) {
	t.Helper()
	run := func(client, upstream Side, hooks Hooks) Relay {
		return startParking(bareSide(client), bareSide(upstream), hooks, time.Hour)
	}
	open := func(tb testing.TB) (peer, ours net.Conn) {
		tb.Helper()
		peer, ours, m = openKnown(tb)
		return peer, ours
	}
	w = newRig(t, run, open, openTCP).way(ClientToUpstream)
	w.sendRaw(sent(m))
	return w, m
}

// sendRaw sends something below TLS.
func (w way) sendRaw(p string) {
	w.tb.Helper()
	end{raw(w.from.Conn), w.tb}.send(p)
}

// There may be more bytes than any record has, and nevertheless no data behind those
// that have been read.
func TestNoDataWaitsForRecordsThatFollow(t *testing.T) {
	first, second := message(1<<14), message(1<<14-100)
	half := func(record string) (sent, later string) { return record[:len(record)/2], record[len(record)/2:] }
	none := func(m *recordMaker) (sent, later string) { return "", m.record(dataRecord, second, 0) }
	part := func(m *recordMaker) (sent, later string) { return half(m.record(dataRecord, second, 0)) }
	for name, test := range map[string]struct {
		useless func(m *recordMaker) string
		next    func(m *recordMaker) (sent, later string)
	}{
		"padding":                         {func(m *recordMaker) string { return m.padding(6) }, none},
		"padding, and a part of a record": {func(m *recordMaker) string { return m.padding(6) }, part},
		"padding and a new key":           {func(m *recordMaker) string { return m.padding(5) + m.update() }, none},
		"a new key, padding, and a part of a record": {
			func(m *recordMaker) string { return m.padding(1) + m.update() + m.padding(4) + m.update() }, part,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var later string
			w, m := openedTLS(t, func(m *recordMaker) string {
				sent := m.record(dataRecord, first, 0) + test.useless(m)
				var begun string
				begun, later = test.next(m)
				return sent + begun
			})
			w.start()
			w.to.expect(first)
			w.waitTaken(w.d, uint64(len(first)))
			w.sendRaw(later)
			w.to.expect(second)
			w.sendRaw(m.update() + m.record(dataRecord, "the last", 0))
			w.to.expect("the last")
			w.to.send("the other way")
			w.from.expect("the other way")
		})
	}
}

// What has come in several records is passed on at once, whatever their size is.
func TestRecordsThatHaveComeGoTogether(t *testing.T) {
	for name, size := range map[string]int{"long": 1 << 14, "short": 500, "odd": 12_345} {
		t.Run(name, func(t *testing.T) {
			const all = 60_000
			w, _ := openedTLS(t, func(m *recordMaker) string {
				var records strings.Builder
				for rest := message(all); rest != ""; {
					n := min(size, len(rest))
					records.WriteString(m.record(dataRecord, rest[:n], 0))
					rest = rest[n:]
				}
				return records.String()
			})
			most := 0
			w.inspect = func(_ Direction, p []byte) Verdict {
				most = max(most, len(p))
				return Verdict{Pass: len(p)}
			}
			w.start()
			w.to.expect(message(all))
			w.waitTaken(w.d, all)
			if most < 20<<10 {
				t.Errorf("%d bytes were passed on at once at most, want more than one record", most)
			}
		})
	}
}
