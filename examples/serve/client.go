// A client of `litefs-watch serve` for Go, without any package: go run client.go DATABASE [POSITION]
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"
)

var sidecar = cmp.Or(os.Getenv("LITEFS_WATCH_URL"), "http://127.0.0.1:20203")

// within is how long an answer may take: a sidecar that hangs keeps nobody waiting. 0: for ever.
func ask(path string, query url.Values, header http.Header, within time.Duration) (*http.Response, error) {
	request, err := http.NewRequest("GET", sidecar+path+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	request.Header = header
	if token := os.Getenv("LITEFS_WATCH_TOKEN"); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := http.Client{Timeout: within}
	return client.Do(request)
}

// Written is, after COMMIT, the position to keep in the writer's cookie; "" where it is not known: send their reads to the primary.
func Written(db string) string {
	response, err := ask("/position", url.Values{"db": {db}}, http.Header{}, 3*time.Second)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	var answer struct{ Position string }
	if response.StatusCode != 200 || json.NewDecoder(response.Body).Decode(&answer) != nil {
		return ""
	}
	return answer.Position
}

// Arrived says, before a read: "here"; "late" (read on the primary), or "lost" in a fail-over.
func Arrived(position, db string, timeout time.Duration) string {
	query := url.Values{"position": {position}, "db": {db}, "timeout": {fmt.Sprintf("%dms", timeout.Milliseconds())}}
	response, err := ask("/wait", query, http.Header{}, timeout+time.Second)
	if err != nil {
		return "late"
	}
	defer response.Body.Close()
	io.Copy(io.Discard, response.Body) // the connection is used again
	return cmp.Or(map[int]string{200: "here", 410: "lost"}[response.StatusCode], "late")
}

// Event has what all events have, and those of the role.
type Event struct{ ID, Type, Database, Position, Role, Primary string }

// Follow calls each with what happens, until it returns false, or the sidecar ends; last is the last ID that was seen: missed and
// closing have none.
func Follow(last string, each func(Event) bool) error {
	header := http.Header{"Accept": {"application/x-ndjson"}}
	if last != "" {
		header.Set("Last-Event-ID", last)
	}
	response, err := ask("/events", nil, header, 0)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != 200 {
		return fmt.Errorf("/events: %s", response.Status)
	}
	for lines := bufio.NewReader(response.Body); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		var event Event
		if err := json.Unmarshal(line, &event); err != nil {
			return err
		}
		if !each(event) {
			return nil
		}
	}
}

func main() {
	db := os.Args[1]
	position := Written(db)
	if len(os.Args) > 2 {
		position = os.Args[2]
	}
	fmt.Println(position, Arrived(position, db, 500*time.Millisecond))
	if err := Follow("", func(event Event) bool { fmt.Println(event.Type, event.Role); return false }); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
