package integration

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
)

// chatPause is what both sides of a chat wait between two messages.
const chatPause = 30 * time.Millisecond

// chatServer is an upstream that sends numbered messages of its own, and wants
// those that it gets to be numbered without a gap.
type chatServer struct {
	*server
	open atomic.Int64
}

func startChat(tb testing.TB) *chatServer {
	tb.Helper()
	s := new(chatServer)
	var up gorilla.Upgrader
	s.server = startHTTP(tb, func(w http.ResponseWriter, r *http.Request) end {
		conn, err := up.Upgrade(w, r, nil)
		if err != nil {
			tb.Errorf("upgrading: %v", err)
			return end{Code: -1}
		}
		defer conn.Close()
		s.open.Add(1)
		defer s.open.Add(-1)
		e := gorillaEnd(conn, newChat(conn).run())
		if e.Code != gorilla.CloseNormalClosure {
			tb.Errorf("a server's end of a chat: %+v", e)
		}
		return e
	})
	return s
}

// chat is one end of a connection on which both sides send numbered messages.
type chat struct {
	conn     *gorilla.Conn
	client   bool // it says goodbye first, and closes
	received atomic.Int64
	stop     chan struct{} // closed to say goodbye
	stopOnce sync.Once
}

func newChat(conn *gorilla.Conn) *chat {
	return &chat{conn: conn, stop: make(chan struct{})}
}

func (c *chat) goodbye() {
	c.stopOnce.Do(func() { close(c.stop) })
}

// run chats until both sides have said goodbye and the connection has ended. The
// error is what it ended with.
func (c *chat) run() error {
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()
	defer func() {
		c.goodbye()
		<-written
	}()
	for {
		_ = c.conn.SetReadDeadline(time.Now().Add(timeout))
		_, payload, err := c.conn.ReadMessage()
		if err != nil {
			return err
		}
		text := string(payload)
		if strings.HasPrefix(text, "bye ") {
			if want := fmt.Sprint("bye ", c.received.Load()); text != want {
				return fmt.Errorf("got %q, want %q", text, want)
			}
			if err := c.answerGoodbye(); err != nil {
				return err
			}
			continue
		}
		if want := fmt.Sprint("message ", c.received.Load()); text != want {
			return fmt.Errorf("got %q, want %q", text, want)
		}
		c.received.Add(1)
	}
}

// answerGoodbye does what follows the peer's goodbye: the server says its own,
// the client closes.
func (c *chat) answerGoodbye() error {
	if !c.client {
		c.goodbye()
		return nil
	}
	message := gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, "")
	return c.conn.WriteControl(gorilla.CloseMessage, message, time.Now().Add(timeout))
}

// write sends numbered messages and, in the end, how many there were.
func (c *chat) write() {
	ticker := time.NewTicker(chatPause)
	defer ticker.Stop()
	for n := 0; ; n++ {
		text := fmt.Sprint("message ", n)
		last := false
		select {
		case <-ticker.C:
		case <-c.stop:
			text, last = fmt.Sprint("bye ", n), true
		}
		_ = c.conn.SetWriteDeadline(time.Now().Add(timeout))
		// A failure shows in the reader, too.
		if c.conn.WriteMessage(gorilla.TextMessage, []byte(text)) != nil || last {
			return
		}
	}
}

// chatClient is the client's end of a chat.
type chatClient struct {
	*chat
	resp  *http.Response
	ended chan error
}

func (c *caddy) startChat(tb testing.TB, scheme string) *chatClient {
	tb.Helper()
	g := dialGorilla(tb, c.url(scheme, "/"), dialOptions{tls: c.certs.ClientConfig()})
	chat := &chatClient{chat: newChat(g.Conn), resp: g.resp, ended: make(chan error, 1)}
	chat.client = true
	go func() { chat.ended <- chat.run() }()
	return chat
}

// startChats opens n chats, every other over wss.
func (c *caddy) startChats(tb testing.TB, n int) []*chatClient {
	tb.Helper()
	chats := make([]*chatClient, n)
	for i := range chats {
		chats[i] = c.startChat(tb, schemes[i%2])
	}
	return chats
}

// progress waits until every chat has got more messages.
func progress(tb testing.TB, chats []*chatClient) {
	tb.Helper()
	const more = 5
	before := make([]int64, len(chats))
	for i, c := range chats {
		before[i] = c.received.Load()
	}
	for i, c := range chats {
		eventually(tb, fmt.Sprintf("chat %d goes on", i), func() bool {
			select {
			case err := <-c.ended:
				tb.Fatalf("chat %d has ended: %v", i, err)
			default:
			}
			return c.received.Load() >= before[i]+more
		})
	}
}

// finish says goodbye on every chat, and checks that nothing was lost and all
// of them closed cleanly.
func finish(tb testing.TB, chats []*chatClient) {
	tb.Helper()
	for _, c := range chats {
		c.goodbye()
	}
	for i, c := range chats {
		err := within(tb, fmt.Sprintf("chat %d ends", i), c.ended)
		if e := gorillaEnd(c.conn, err); e.Code != gorilla.CloseNormalClosure {
			tb.Errorf("chat %d ended with %v", i, err)
		}
		_ = c.conn.Close()
	}
}
