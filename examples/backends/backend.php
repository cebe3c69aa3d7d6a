<?php // A backend for lobbyd: LOBBYD_SECRET_FILE=secret php -S 127.0.0.1:PORT backend.php
// For tests: php -S reads a body of any length before it runs this. Elsewhere the web server needs a bound.
ini_set('display_errors', '0'); // an error is answered with 500
function refuse($status) {
    http_response_code($status);
    exit;
}
$file = getenv('LOBBYD_SECRET_FILE');
$secret = trim(file_get_contents($file));
if (strlen($secret) < 16) refuse(500);
$users = ['token-of-ann' => ['allow' => true, 'user' => 'ann', 'tier' => 'pro', 'role' => 'host', 'data' => ['rating' => 1850]]];
if (!preg_match('/^\d{1,6}$/D', $_SERVER['CONTENT_LENGTH'] ?? '')) refuse(413); // enough for max_header_bytes up to 200 KiB
$body = file_get_contents('php://input');
$sentAt = $_SERVER['HTTP_X_LOBBYD_TIMESTAMP'] ?? '';
$expected = 'sha256=' . hash_hmac('sha256', "$sentAt.$body", $secret);
$isSigned = hash_equals($expected, $_SERVER['HTTP_X_LOBBYD_SIGNATURE'] ?? '');
if (!$isSigned || abs(microtime(true) * 1000 - (float) $sentAt) > 60000) refuse(401);
$call = json_decode($body, true);
$mark = "$file.{$call['boot']}"; // a file with the seq of the last event
foreach ($call['events'] ?? [] as $event) {
    if ($event['seq'] <= (int) @file_get_contents($mark)) continue; // it is repeated
    file_put_contents('php://stdout', json_encode($event, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES) . "\n");
    file_put_contents($mark, $event['seq']);
}
header('Content-Type: application/json');
echo json_encode($call['type'] === 'connect' ? $users[$call['token']] ?? ['allow' => false, 'reason' => 'unauthorized'] : new stdClass());
