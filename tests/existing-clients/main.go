// Test of a user of an image prewarm service: it posts a task as text, reads the fields with its own
// types, and polls until the task has ended. Only address, token and CA are added.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

// Task has the fields that such clients read, with their types.
type Task struct {
	ID           string            `json:"taskId"`
	Status       string            `json:"status"`
	Images       []string          `json:"images"`
	BatchSize    int               `json:"batchSize"`
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	Progress     *struct {
		TotalNodes     int     `json:"totalNodes"`
		CompletedNodes int     `json:"completedNodes"`
		FailedNodes    int     `json:"failedNodes"`
		CurrentBatch   int     `json:"currentBatch"`
		TotalBatches   int     `json:"totalBatches"`
		Percentage     float64 `json:"percentage"`
	} `json:"progress,omitempty"`
	FailedNodes []struct {
		NodeName  string    `json:"nodeName"`
		Image     string    `json:"image"`
		Reason    string    `json:"reason"`
		Message   string    `json:"message,omitempty"`
		Timestamp time.Time `json:"timestamp"`
	} `json:"failedNodeDetails,omitempty"`
	CreatedAt    time.Time  `json:"createdAt"`
	StartedAt    *time.Time `json:"startedAt,omitempty"`
	FinishedAt   *time.Time `json:"finishedAt,omitempty"`
	EstimatedEnd *time.Time `json:"estimatedCompletion,omitempty"`
}

type authorized struct{ base http.RoundTripper }

func (a authorized) RoundTrip(request *http.Request) (*http.Response, error) {
	request.Header.Set("Authorization", "Bearer "+os.Getenv("PREWARMER_TOKEN"))
	return a.base.RoundTrip(request)
}

func decode(response *http.Response, err error, code int) (task Task) {
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != code {
		log.Fatalf("expected %d, got %s", code, response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(&task); err != nil {
		log.Fatal(err)
	}
	return task
}

func main() {
	ca, err := os.ReadFile(os.Getenv("PREWARMER_CA_FILE"))
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	http.DefaultClient.Transport = authorized{&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	apiURL := os.Getenv("PREWARMER_URL")

	resp, err := http.Post(apiURL+"/api/v1/tasks", "application/json", strings.NewReader(`{
		"images": ["nginx:latest", "missing:1"],
		"batchSize": 40,
		"nodeSelector": {"type": "fake"}
	}`))
	task := decode(resp, err, http.StatusCreated)
	if task.ID == "" || task.Status != "pending" || task.BatchSize != 40 || task.CreatedAt.IsZero() {
		log.Fatalf("%+v", task)
	}
	for end := time.Now().Add(5 * time.Minute); task.Status != "completed" && task.Status != "failed"; time.Sleep(time.Second) {
		if time.Now().After(end) {
			log.Fatalf("timeout: %+v", task)
		}
		resp, err := http.Get(apiURL + "/api/v1/tasks/" + task.ID)
		task = decode(resp, err, http.StatusOK)
	}
	if task.Status != "failed" || task.Progress.TotalNodes != 120 || task.FinishedAt == nil || task.StartedAt == nil {
		log.Fatalf("%+v", task)
	}
	if len(task.FailedNodes) == 0 || task.FailedNodes[0].NodeName == "" || task.FailedNodes[0].Timestamp.IsZero() {
		log.Fatalf("%+v", task.FailedNodes)
	}
	fmt.Println("Go: the failed nodes are reported")
}
